# A month of a company in billing, an ERP and the hub, in which faults are planted that
# reconciliation has to find, name and repair. One text for `make month`, which shows it to a
# person, and for t/570_month.pl, which asserts the same with fewer customers.
#
#   SyncExt::Month->new(
#       dsn       => 'host=… port=… dbname=hub',    # of a superuser, empty database
#       secrets   => '…',                           # sync_ext.secrets_dir
#       billing   => { DE => $sandbox, US => $sandbox },
#       erp       => { DE => $tryton, US => $tryton },
#       sql       => 'test/month',                  # where the scripts are
#       seed      => 7, customers => 5000,
#       say       => sub { my ($line) = @_; … },
#       check     => sub { my ($ok, $claim, $detail) = @_; … }
#   )->run;
#
# Month::Load makes the healthy month, Month::Traffic goes on working meanwhile, Month::Faults is
# the table of what goes wrong, Month::Judge compares what was found with what was planted.
package SyncExt::Month;

use strict;
use utf8;
use warnings;

use Carp qw(croak);
use IPC::Open3 qw(open3);
use JSON::PP;
use SyncExt::Month::Faults;
use SyncExt::Month::Judge;
use SyncExt::Month::Load;
use SyncExt::Month::Traffic;
use Symbol qw(gensym);
use Time::HiRes qw(sleep time);

my $JSON = JSON::PP->new->canonical->allow_nonref;

sub new
{
	my ($class, %option) = @_;
	my $self = bless {
		customers => 5000,
		seed      => 1,
		faults    => 60,
		patience  => 300,
		say       => sub { },
		%option
	}, $class;

	foreach my $name (qw(dsn secrets billing erp sql check))
	{
		defined $self->{$name} or croak "missing: $name";
	}
	return $self;
}

sub run
{
	my ($self) = @_;
	my $load = SyncExt::Month::Load->new($self);
	my $traffic = SyncExt::Month::Traffic->new($self);
	my $faults = SyncExt::Month::Faults->new($self);
	my $judge = SyncExt::Month::Judge->new($self, $faults);

	$load->run;
	$self->step('Everything is compared, every rule is run: nothing is found');
	$judge->silent('the healthy month');

	$self->step("$self->{faults} faults are planted while traffic goes on");
	$traffic->start;
	$faults->plant;
	$traffic->stop;
	$traffic->settle;

	$self->step('Everything is compared again, while traffic goes on');
	$traffic->start(quietly => 1);
	$judge->found;
	$traffic->stop;
	$self->settle;
	$self->step('What was found is repaired');
	$judge->repair;
	$self->settle;
	$self->step('What is left');
	$judge->nothing_left;
	return;
}

#----------------------------------------------------------------------
# Talking to the database and to the reader
#----------------------------------------------------------------------

# Runs SQL through psql and returns what it prints. Options: user, table, file, vars.
sub psql
{
	my ($self, $sql, %option) = @_;
	my $dsn = $self->{dsn} . ($option{user} ? " user=$option{user}" : '');
	my @format = $option{table} ? qw(-P border=1 -P null=- -P footer=off) : qw(-A -t);
	my @vars = map { ('-v', "$_=$option{vars}{$_}") } sort keys %{ $option{vars} // {} };
	my $err = gensym;
	my $pid = open3(my $in, my $out, $err, qw(psql -Xq -v ON_ERROR_STOP=1), @format, @vars, '-d', $dsn, '-f', $option{file} // '-');

	binmode $_, ':encoding(UTF-8)' foreach $in, $out, $err;
	print $in "SET client_min_messages = warning;\n$sql\n" if !$option{file};
	close $in;
	my ($text, $complaint) = map { local $/; scalar(<$_>) // '' } $out, $err;
	waitpid $pid, 0;
	croak(($option{file} // $sql) . "\n$complaint") if $? != 0;
	chomp $text;
	return $text;
}

# A script of this test, with variables.
sub script
{
	my ($self, $name, %vars) = @_;
	return $self->psql('', file => "$self->{sql}/$name.sql", vars => \%vars);
}

# Statements for the database of an ERP, as somebody with a shell there would run them.
sub in_erp
{
	my ($self, $entity, $statements) = @_;
	my $database = $self->{erp}{$entity}->dir . '/db/' . $self->{erp}{$entity}->db . '.sqlite';
	my $pid = open3(my $in, my $out, undef, 'sqlite3', '-batch', '-bail', '-cmd', '.timeout 60000', $database);

	binmode $_, ':encoding(UTF-8)' foreach $in, $out;
	print $in $statements, "\n";
	close $in;
	my $text = do { local $/; scalar(<$out>) // '' };
	waitpid $pid, 0;
	croak "sqlite3: $text" if $? != 0;
	chomp $text;
	return $text;
}

sub rows
{
	my ($self, $query) = @_;
	return $JSON->decode($self->psql("SELECT coalesce(json_agg(q), '[]') FROM ($query) q;"));
}

sub show
{
	my ($self, $title, $query) = @_;
	my $table = $self->psql("$query;", table => 1);

	$table =~ s/^/   /mg;
	$self->tell('', "   $title", $table, '');
	return;
}

sub tell
{
	my ($self, @line) = @_;
	$self->{say}->($_) foreach @line;
	return;
}

sub step
{
	my ($self, $title) = @_;

	$self->{began} //= time;
	$self->tell('', sprintf('%d. %s  [at %d s]', ++$self->{step}, $title, time - $self->{began}));
	return;
}

# A line about something that took its time.
sub timed
{
	my ($self, $what, $work) = @_;
	my $began = time;
	my $result = $work->();

	$self->tell(sprintf('   %6.1f s  %s', time - $began, $what));
	return $result;
}

sub check
{
	my ($self, $ok, $claim, $detail) = @_;
	return $self->{check}->($ok ? 1 : 0, $claim, $ok ? undef : $detail);
}

sub is
{
	my ($self, $got, $expected, $claim) = @_;
	return $self->check($got eq $expected, $claim, "found:    $got\nexpected: $expected");
}

# Wait until a query gives the expected text; in vain: what the hub says of itself.
sub eventually
{
	my ($self, $claim, $expected, $question, $patience) = @_;
	my $deadline = time + ($patience // $self->{patience});
	my $got;

	for (;;)
	{
		$got = $self->psql("$question;");
		return $self->check(1, $claim) if $got eq $expected;
		last if time > $deadline;
		sleep 0.25;
	}
	$self->check(0, $claim, "found:    $got\nexpected: $expected");
	$self->trouble;
	die "waited in vain\n";
}

sub trouble
{
	my ($self) = @_;
	$self->show('Routes', 'SELECT route, lag_events, in_flight, retry, waiting, ambiguous, behind, dead, conflict FROM sync.route_status ORDER BY 1');
	$self->show('Held', "SELECT system, object, record_number, left(concat_ws(': ', code, message), 90) AS reason FROM sync._held ORDER BY 1, 2, 3 LIMIT 5");
	$self->show('Inbox', 'SELECT system, object, remote_id, state, left(reason, 90) AS reason FROM sync.inbox_status ORDER BY id LIMIT 5');
	$self->show('Streams', 'SELECT system, object, state, pages, records, applied, failures, left(last_error, 60) AS last_error FROM sync.stream_status ORDER BY 1, 2');
	$self->show('Health', "SELECT \"check\", status, left(detail, 100) AS detail FROM sync.health() WHERE status <> 'ok'");
	return;
}

# Until all that was written on any side has arrived at the others, and come back.
sub settle
{
	my ($self) = @_;

	foreach my $round (1, 2)
	{
		my $since = $self->psql('SELECT clock_timestamp();');
		$self->psql('SELECT sync.request_pull(system, object) FROM sync.stream_status;');
		# A walk that had begun before may have passed by what changed since.
		$self->eventually('streams have read what is new', 't',
			"SELECT coalesce(bool_and(started_at >= '$since' AND finished_at >= started_at AND state = 'idle'), true) FROM sync.stream_status");
		$self->psql("SELECT sync.wait_idle('120 s');");
	}
	return;
}

1;

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
use parent 'SyncExt::Story';

use Carp qw(croak);
use IPC::Open3 qw(open3);
use SyncExt::Month::Faults;
use SyncExt::Month::Judge;
use SyncExt::Month::Load;
use SyncExt::Month::Traffic;
use Time::HiRes qw(time);

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

# A line about something that took its time.
sub timed
{
	my ($self, $what, $work) = @_;
	my $began = time;
	my $result = $work->();

	$self->tell(sprintf('   %6.1f s  %s', time - $began, $what));
	return $result;
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

# What is shown to a person and asserted by a test in one text (MainJob, Month): talking to the hub's
# database, telling what goes on, claims, waiting. A subclass has in $self:
#
#   dsn       of a superuser, for psql
#   patience  seconds that `eventually` waits
#   say       sub { my ($line) = @_; … }
#   check     sub { my ($ok, $claim, $detail) = @_; … }
package SyncExt::Story;

use strict;
use utf8;
use warnings;

use Carp qw(croak);
use IPC::Open3 qw(open3);
use JSON::PP;
use Symbol qw(gensym);
use Time::HiRes qw(sleep time);

my $JSON = JSON::PP->new->canonical->allow_nonref;

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

# A step of the story, with the seconds since the first.
sub step
{
	my ($self, $title, @explanation) = @_;

	$self->{began} //= time;
	$self->tell('', sprintf('%d. %s  [at %d s]', ++$self->{step}, $title, time - $self->{began}));
	$self->tell(map { "   $_" } @explanation);
	return;
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

# Wait until a query (or a function) gives the expected text. When patience is
# at an end the claim fails, with what the hub says of itself, and the job ends:
# every step builds on the one before.
sub eventually
{
	my ($self, $claim, $expected, $question, $patience) = @_;
	my $deadline = time + ($patience // $self->{patience});
	my $got;

	for (;;)
	{
		$got = ref $question ? $question->() : $self->psql("$question;");
		return $self->check(1, $claim) if $got eq $expected;
		last if time > $deadline;
		sleep 0.25;
	}
	$self->check(0, $claim, "found:    $got\nexpected: $expected");
	$self->trouble;
	die "waited in vain\n";
}

# What the hub says of itself, where something is awaited in vain.
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

1;

# What a backlog, and transactions of others that stay open, cost the rate of deliveries.
#
# bench: push.backlog_flatness push.backlog_memory
# bench: push.backlog_beside.transaction push.backlog_beside.snapshot push.backlog_beside.prepared
#
# One server has a million events waiting, written at once while its system is paused, another ten
# thousand; of each some thousand deliveries are timed, in turn. Then the second server delivers
# beside an old transaction with an event that is not committed, an old snapshot, and a prepared
# transaction with an event, in turn with a third that has none of them; everything must arrive, and the
# event when its transaction commits. Under LONG=1 they are ten minutes old, during which records are
# written and delivered.
use strict;
use warnings;

use SyncExt::Backlog;
use SyncExt::Bench;
use Time::HiRes qw(sleep time);

my $PAIRS = 5;
my ($SKIPPED, $TIMED) = (1000, 12_000);
my $AGE = long() ? 600 : 2;

my $small = SyncExt::Backlog->new('small');
$small->route(1);

# All that waits, written and delivered; returns the rate.
sub drain
{
	my ($server, $n) = @_;
	my $before = $server->served;

	$server->pause;
	$server->write($n);
	my $rate = $server->rate($SKIPPED, $n - 2 * $SKIPPED);
	$server->until_served($before + $n);
	$server->node->wait_idle(60) eq 't' or die 'the hub does not become idle';
	return $rate;
}

sub all_arrived
{
	my $lost = $small->node->value(q(SELECT count(*) FROM app.item i WHERE NOT EXISTS (
		SELECT FROM sync.external_id e WHERE e.record_id = i.id::text)));

	die "$lost records never arrived" if $lost != 0;
	return;
}

sub flatness
{
	my $big = SyncExt::Backlog->new('big');
	my $own = 0;

	$big->route(1);
	$big->pause;
	$big->write(1_000_000);
	$big->rate($SKIPPED, $TIMED);
	$big->pause;
	drain($small, 2 * $SKIPPED + $TIMED);
	my @pairs = interleave($PAIRS,
		sub {
			my $rate = $big->rate($SKIPPED, $TIMED);

			$own = $big->own_mb if $big->own_mb > $own;
			$big->pause;
			return $rate;
		},
		sub { return drain($small, 2 * $SKIPPED + $TIMED) });
	note('deliveries/s, 1 M / 10 000 waiting: ' . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
	note(sprintf 'peak of the hub with 1 M waiting: %d MB, %d MB of it its own and not the shared buffers\'',
		peak_kb($big->pid) / 1024, $own);
	report('push.backlog_flatness', [ ratios(@pairs) ], '>=', 0.9);
	report('push.backlog_memory', [$own], '<=', 200, 'MB');
	$big->node->stop('immediate');
	return;
}

# Some writing while the transaction grows old: updates of what is there.
sub grow_old
{
	my $until = time + $AGE;

	while (time < $until)
	{
		$small->node->sql('UPDATE app.item SET v = v + 1 WHERE id <= 500');
		sleep 1;
	}
	$small->node->wait_idle(60) eq 't' or die 'the hub does not become idle';
	return;
}

my $session;

# One that may sit idle for ten minutes: the time-out counts from its last query.
sub open_session
{
	$session = $small->node->background_psql('hub');
	$session->set_query_timer_restart;
	return;
}

my $alone = 10_000_000;

sub begin_event { return "BEGIN; INSERT INTO app.item VALUES (" . ++$alone . ", 'alone', 0);" }

my %form = (
	transaction => [
		sub { open_session(); $session->query_safe(begin_event()) },
		sub { $session->query_safe('COMMIT'); $session->quit } ],
	snapshot => [
		sub {
			open_session();
			$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sync.hub');
		},
		sub { $session->query_safe('COMMIT'); $session->quit } ],
	prepared => [
		sub { $small->node->sql(begin_event() . " PREPARE TRANSACTION 'old'") },
		sub { $small->node->sql("COMMIT PREPARED 'old'") } ]);

my $free;

sub beside
{
	my ($name) = @_;
	my ($begin, $end) = @{ $form{$name} };
	my $line = "push.backlog_beside.$name";
	my $n = 2 * $SKIPPED + $TIMED;

	return if !wanted($line);
	if (!defined $free)
	{
		$free = SyncExt::Backlog->new('free');
		$free->route(1);
	}
	drain($_, $n) foreach $small, $free;
	$begin->();
	grow_old();
	my @pairs = interleave($PAIRS, sub { return drain($small, $n) }, sub { return drain($free, $n) });
	all_arrived();
	$end->();
	$small->node->wait_idle(60) eq 't' or die 'the hub does not become idle';
	all_arrived();
	note('deliveries/s, beside / without: ' . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
	report($line, [ ratios(@pairs) ], '>=', 0.9);
	return;
}

flatness() if wanted('push.backlog_flatness') || wanted('push.backlog_memory');
beside($_) foreach qw(transaction snapshot prepared);

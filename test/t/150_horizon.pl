# What the hub holds while it works: no snapshot during a request, no strong
# lock, no WAL when idle; and nobody's open transaction stops the others.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(sleep time);

my $hub = SyncExt::Hub->new('main', conf => "sync_ext.poll_interval = 100\n");
my $node = $hub->node;
my $sandbox = $hub->sandbox;

sub arrived
{
	my ($id) = @_;
	return $hub->value("SELECT count(*) = 2 FROM sync.record_status WHERE record_id = '$id' AND state = 'synced'");
}

sub until_arrived
{
	my ($id, $name) = @_;
	$hub->wait_until($name, sub { arrived($id) eq 't' });
	pass($name);
	return;
}

# ---- a slow vendor ----

$hub->write('warm');
$hub->wait_idle;
$sandbox->fault(kind => 'latency', ms => 6000, times => -1, match => { method => 'POST' });
my @slow = map { $hub->write("slow $_") } 1 .. 5;
my (%worst, %mode);
my ($rounds, $oldest) = (0, 0);
my $deadline = time + 2.5;

while (time < $deadline)
{
	my $age = $node->safe_psql('hub', q(SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
		FROM pg_stat_activity WHERE backend_type LIKE 'sync_ext%' AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)));
	my @lock = split /\n/, $node->safe_psql('hub', q(
		SELECT DISTINCT l.mode FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		 WHERE a.backend_type LIKE 'sync_ext%' AND l.locktype = 'relation'));
	$oldest = $age if $age > $oldest;
	$mode{$_} = 1 foreach @lock;
	$rounds++;
	sleep 0.05;
}
is($hub->value(q(SELECT sum(in_flight) > 0 FROM sync.system_status)), 't', 'requests were in flight all the while');
cmp_ok($oldest, '<', 1, "no transaction of a worker was older than a second in $rounds looks");
is_deeply([ grep { !/^(AccessShare|RowShare|RowExclusive)Lock$/ } sort keys %mode ], [], 'nor did one hold a strong lock');
$sandbox->clear_faults;
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'all arrived in the end');

# ---- idle ----

my $wal;
$hub->wait_until('the hub to be quiet', sub {
	my $now = $hub->value('SELECT pg_current_wal_insert_lsn()');
	my $quiet = defined $wal && $wal eq $now;
	$wal = $now;
	sleep 0.5;
	return $quiet;
});
sleep 2;
is($hub->value('SELECT pg_current_wal_insert_lsn()'), $wal, 'an idle hub writes no WAL in 20 polls');

# ---- transactions that stay open ----

my $idler = $node->background_psql('hub');
my $open = $hub->new_id;
$idler->query_safe('BEGIN; ' . $hub->insert_sql($open, 'open 1'));
my $other = $hub->write('beside an open transaction');
until_arrived($other, 'an event passes one that is not committed');
my $upkeep = time;
$hub->sql(q(SET lock_timeout = '5s'; SELECT sync._upkeep()));
cmp_ok(time - $upkeep, '<', 5, 'upkeep does not wait for it');
$hub->rename($other, 'beside an open transaction 2');
is(arrived($open), 'f', 'what is not committed is not sent');
$idler->query_safe('COMMIT');
until_arrived($open, 'it is sent when it commits');

my $prepared = $hub->new_id;
$hub->sql('BEGIN; ' . $hub->insert_sql($prepared, 'prepared 1') . q(PREPARE TRANSACTION 'later'));
my $after = $hub->write('beside a prepared transaction');
until_arrived($after, 'an event passes one that is prepared');
$node->restart;
$hub->wait_running;
is(arrived($prepared), 'f', 'a restart sends nothing of it');
my $third = $hub->write('after the restart');
until_arrived($third, 'others flow after it');
$hub->sql(q(COMMIT PREPARED 'later'));
until_arrived($prepared, 'it is sent when it is committed');

# Many events pass a transaction that began before them; then it commits.
$idler->quit;
$idler = $node->background_psql('hub');
my $early = $hub->new_id;
$idler->query_safe('BEGIN; ' . $hub->insert_sql($early, 'early 1'));
my @many = map { $hub->new_id } 1 .. 300;
$hub->sql(join '', map { $hub->insert_sql($_, 'many') } @many[ 0 .. 149 ]);
$hub->wait_until('the others', sub { $hub->value('SELECT count(*) FROM sync.external_id') >= 150 });
$node->stop('immediate');
eval { $idler->quit };
$node->start;
$hub->forget($early);
$hub->wait_running;
$hub->sql(join '', map { $hub->insert_sql($_, 'many') } @many[ 150 .. 299 ]);
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'commit order against sequence order: nothing is skipped, nothing comes twice');

# A writer that begins early and commits late, over and over, beside quick ones.
my @sessions = map { $node->background_psql('hub') } 1 .. 3;
foreach my $round (1 .. 8)
{
	my $id = $hub->new_id;
	my $session = $sessions[ $round % 3 ];

	$session->query_safe('COMMIT') if $round > 3;
	$session->query_safe('BEGIN; ' . $hub->insert_sql($id, "overlap $round.1") . $hub->rename_sql($id, "overlap $round.2"));
	$hub->write("quick $round");
}
$_->query_safe('COMMIT') foreach @sessions;
$_->quit foreach @sessions;
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'overlapping transactions');

$node->stop;
done_testing();

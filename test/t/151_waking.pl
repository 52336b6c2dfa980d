# Who wakes the hub, and who does not. The fallback look comes every ten minutes
# here, so whatever is delivered was told by the commit that made it; and while
# there is nobody to speak to, or nothing to do, commits leave the hub asleep.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use PostgreSQL::Test::Utils ();
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(sleep);

my $hub = SyncExt::Hub->new('main', conf => "sync_ext.poll_interval = '10 min'\n");
my $node = $hub->node;
my $sandbox = $hub->sandbox;

sub delivered
{
	my ($name) = @_;

	$hub->wait_idle(30);
	return is_deeply([ $hub->broken ], [], $name);
}

# How often the hub has gone to sleep.
sub naps
{
	my $status = PostgreSQL::Test::Utils::slurp_file('/proc/' . $hub->hub_pid . '/status');
	my ($count) = $status =~ /^voluntary_ctxt_switches:\s+(\d+)/m;

	return $count;
}

sub commit_many
{
	my ($n) = @_;
	my @ids = map { $hub->new_id } 1 .. $n;

	$hub->sql(join ' ', map { 'BEGIN; ' . $hub->insert_sql($_, 'one of many') . ' COMMIT;' } @ids);
	return @ids;
}

$hub->write('a commit');
delivered('a commit wakes the hub');

$hub->sql('BEGIN; ' . $hub->insert_sql($hub->new_id, 'prepared') . " PREPARE TRANSACTION 'p'");
$hub->sql("COMMIT PREPARED 'p'");
delivered('COMMIT PREPARED wakes it');

my $call = $hub->value(q(SELECT sync.call('crm', 'customer.lookup', '{"id": "nobody"}')));
$hub->poll_until("SELECT state = 'done' FROM sync.api_call WHERE id = $call", 20);
pass('a call is made at once');

$hub->sql("SELECT sync.create_stream('crm', 'customer', '1 hour')");
$hub->poll_until('SELECT finished_at IS NOT NULL FROM sync.stream_status', 20);
$hub->sql("SELECT sync.request_pull('crm', 'customer')");
$hub->poll_until('SELECT finished_at > requested_at FROM sync.stream_status', 20);
pass('a requested pull is made at once');

# Who waits for a lock resets the latch, so what was told meanwhile must be seen without it.
$hub->sql(q(CREATE FUNCTION sync._job_locked(id bigint) RETURNS interval LANGUAGE plpgsql
	AS $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN interval '1 h'; END $$));
my $holder = $node->background_psql($node->database, on_error_stop => 1);
# Not by _job_start(), whose audit row would have it look again to seal; nor by wait_idle(), which wakes it. It
# may look up by itself just then, hence several rounds.
foreach my $round (1 .. 5)
{
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $job = $hub->value("INSERT INTO sync.job (kind) VALUES ('locked') RETURNING id; SELECT sync._wake()");
	$hub->poll_until("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $hub->hub_pid, 20);
	my $told = $hub->write("while it waits for a lock, $round");
	$holder->query_safe('SELECT pg_advisory_unlock(4711)');
	$hub->poll_until("SELECT count(*) = 2 FROM sync.external_id WHERE record_id = '$told'", 2);
	$hub->sql("UPDATE sync.job SET state = 'done' WHERE id = $job");
}
pass('what is committed while the hub waits for a lock wakes it, too');
$holder->quit;

# Nothing may be lost while it does not listen, whatever the reason.
$hub->sql("SELECT sync.pause(name) FROM sync.system");
$hub->write('one that waits already');
$hub->poll_until(q(SELECT bool_and(mode = 'paused') FROM sync.system_status), 20);
commit_many(20);
my $before = naps();
commit_many(200);
my $woken = naps() - $before;
cmp_ok($woken, '<', 20, '200 commits let the hub sleep while all its systems are paused');
$hub->sql("SELECT sync.resume(name) FROM sync.system");
delivered('and are delivered when they are resumed');

$sandbox->fault(kind => 'status', status => 503, body => '{}', times => 1000);
$hub->write("down $_") foreach 1 .. 30;
# Five failures open a breaker.
$hub->poll_until(q(SELECT count(*) = 2 FROM (SELECT FROM sync.outcome WHERE status = 503
	GROUP BY route_id HAVING count(*) >= 5) r), 20);
commit_many(20);
$before = naps();
commit_many(200);
$woken = naps() - $before;
cmp_ok($woken, '<', 100, '200 commits let the hub sleep while all its systems are down');
$sandbox->clear_faults;
delivered('and are delivered when they are up again');

$hub->sql('SELECT sync.drop_route(name) FROM sync.route');
my @unwanted = commit_many(20);
$before = naps();
push @unwanted, commit_many(200);
$woken = naps() - $before;
$hub->forget($_) foreach @unwanted;
cmp_ok($woken, '<', 20, '200 commits let the hub sleep while no route wants them');

# Idle: looks at all tables, in quick succession, leave no trace.
$node->append_conf('postgresql.conf', "sync_ext.poll_interval = 100\nautovacuum = off\n");
$node->reload;
$hub->sql(q(SELECT sync.create_route('billing', 'customer'), sync.create_route('crm', 'customer')));
$hub->write('the last');
delivered('new routes go on');
my $wal = q(SELECT pg_current_wal_insert_lsn());
my ($was, $is);
foreach (1 .. 10)
{
	$node->safe_psql('postgres', 'CHECKPOINT');
	$was = $hub->value($wal);
	sleep 2;
	$is = $hub->value($wal);
	last if $was eq $is;
}
is($is, $was, 'an idle hub writes no WAL');

$node->stop;
done_testing();

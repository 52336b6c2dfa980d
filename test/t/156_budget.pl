# What workers may cost the app, under load: no snapshot over a second, no lock
# above ROW EXCLUSIVE but for the upkeep of partitions, and no statement of the
# app that waits for a worker.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use IPC::Run;
use SyncExt::Hub;
use Test::More;

# Whoever waits longer than this for a lock is in the server's log, sampled or not.
my $hub = SyncExt::Hub->new('main', conf => "log_lock_waits = on\ndeadlock_timeout = 100ms\nsync_ext.poll_interval = 200\n");
my $node = $hub->node;
my $sandbox = $hub->sandbox;
my $seconds = 6;

# One system answers at once, one slowly, both with errors in between; and both
# are pulled from, into the table that the app writes.
$sandbox->fault(kind => 'latency', ms => 100, jitter_ms => 900, times => -1, match => { path => '/v1/customers' });
$sandbox->fault(kind => 'status', status => 503, body => '{}', times => -1,
	match => { path => "/$_/customers", method => 'POST', probability => 0.02 }) foreach qw(v1 rest);
$sandbox->fault(kind => 'status', status => 429, headers => { 'Retry-After' => '1' }, body => '{}', times => 3,
	match => { path => '/rest/customers', method => 'POST', nth => 50 });
$hub->sql("ALTER SERVER $_ OPTIONS (SET max_in_flight '50', SET rate_limit '5000/s')") foreach qw(billing crm);
$hub->sql("SELECT sync.create_stream('crm', 'customer', '1 s')");
$sandbox->rest(POST => '/customers', { name => "theirs $_" }, { Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" }) foreach 1 .. 150;

# ---- the eye: looks every few milliseconds, and is proven not to be blind ----

$hub->sql(q(
	CREATE UNLOGGED TABLE app.seen (what text, detail text, age float8);
	CREATE UNLOGGED TABLE app.looks (n int);
	INSERT INTO app.looks VALUES (0);
	CREATE VIEW app.worker AS SELECT * FROM pg_stat_activity WHERE backend_type LIKE 'sync_ext%';
	CREATE PROCEDURE app.look() LANGUAGE sql AS $$
		-- A snapshot, or a transaction id, holds back VACUUM; a transaction without either does not.
		INSERT INTO app.seen SELECT 'transaction', state, extract(epoch FROM clock_timestamp() - xact_start)
			FROM app.worker WHERE backend_xmin IS NOT NULL OR backend_xid IS NOT NULL;
		INSERT INTO app.seen SELECT 'lock', l.mode || ' on ' || l.relation::regclass, 0
			FROM pg_locks l JOIN app.worker USING (pid)
			WHERE l.locktype = 'relation' AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock');
		INSERT INTO app.seen SELECT 'wait', coalesce(b.backend_type, 'nobody any more'), extract(epoch FROM clock_timestamp() - a.query_start)
			FROM pg_stat_activity a CROSS JOIN LATERAL unnest(pg_blocking_pids(a.pid)) AS by (pid)
			LEFT JOIN pg_stat_activity b ON b.pid = by.pid
			WHERE a.backend_type = 'client backend' AND a.wait_event_type = 'Lock';
		UPDATE app.looks SET n = n + 1;
	$$));
my $eye = $node->background_psql('hub');
my $look = sub {
	my ($for) = @_;
	return qq(DO \$\$ DECLARE until timestamptz := clock_timestamp() + interval '$for s';
		BEGIN
			WHILE clock_timestamp() < until LOOP
				CALL app.look();
				COMMIT;
				PERFORM pg_sleep(0.005);
			END LOOP;
		END \$\$;);
};

{
	my @session = map { $node->background_psql('hub') } 1 .. 2;
	$hub->sql(q(CREATE TABLE app.bait (n int); INSERT INTO app.bait VALUES (1)));
	$session[0]->query_safe('BEGIN; UPDATE app.bait SET n = 2');
	$session[1]->query_until(qr/going/, "\\echo going\nUPDATE app.bait SET n = 3;\n");
	$hub->poll_until(q(SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')));
	$eye->query_safe($look->(0.1));
	$session[0]->query_safe('COMMIT');
	$_->quit foreach @session;
	is($hub->value(q(SELECT count(*) > 0 FROM app.seen WHERE what = 'wait' AND detail = 'client backend')), 't', 'a wait is seen');
	$hub->sql(q(TRUNCATE app.seen));
}

# ---- the app: inserts, hot and cold updates, deletes, a transaction of many rows ----

my $script = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
open my $file, '>', $script or die "$script: $!";
print $file <<'EOF';
\set hot random(1, 20)
\set dice random(1, 40)
BEGIN;
INSERT INTO app.customer (name) VALUES ('load');
INSERT INTO app.customer (id, name) VALUES (md5('hot' || :hot)::uuid, 'hot') ON CONFLICT (id) DO UPDATE SET name = 'hot ' || clock_timestamp();
COMMIT;
\if :dice = 1
INSERT INTO app.customer (name) SELECT 'bulk' FROM generate_series(1, 100);
DELETE FROM app.customer WHERE id IN (SELECT id FROM app.customer WHERE name = 'load' LIMIT 5 FOR UPDATE SKIP LOCKED);
\endif
\sleep 4 ms
EOF
close $file;
my @load = ('pgbench', '-n', '-c', 3, '-T', $seconds, '-f', $script, 'hub');
my ($said, $complained) = ('', '');
my $offset = $hub->log_size;
my $load;
{
	local %ENV = (%ENV, $node->_get_env);
	$load = IPC::Run::start(\@load, '>', \$said, '2>', \$complained);
}

# Somebody has written and gone for coffee; upkeep runs beside that.
my $coffee = $node->background_psql('hub');
$coffee->query_safe(q(BEGIN; INSERT INTO app.customer (name) VALUES ('coffee')));
$eye->query_safe($look->($seconds / 2));
$hub->sql('SELECT sync._upkeep()');
$eye->query_safe($look->($seconds / 2));
$coffee->query_safe('ROLLBACK');
ok($load->finish, 'the app never failed') or diag($complained);
note($said);

# ---- what was seen ----

cmp_ok($hub->value('SELECT n FROM app.looks'), '>', 20 * $seconds, 'looked often enough');
cmp_ok($hub->value(q(SELECT count(*) FROM sync.outcome)), '>', 200, 'while the hub worked hard');
cmp_ok($hub->value(q(SELECT count(*) FROM app.seen WHERE what = 'transaction')), '>', 20, 'workers were seen at work');
cmp_ok($hub->value(q(SELECT max(age) FROM app.seen WHERE what = 'transaction')), '<', 1, 'none held a snapshot for a second');
is($hub->sql(q(SELECT DISTINCT detail FROM app.seen WHERE what = 'lock' ORDER BY 1)), '', 'nor a lock above ROW EXCLUSIVE');
is($hub->sql(q(SELECT detail, age FROM app.seen WHERE what = 'wait' AND detail <> 'client backend')), '', 'nobody waited for a worker');

my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset);
my %worker = map { $_ => 1 } $node->worker_pids;
my @waits = grep { grep { $worker{$_} } /\d+/g } $log =~ /still waiting for[^\n]*\n[^\n]*DETAIL:\s+Process(?:es)? holding the lock: ([^.]*)\./g;
is_deeply(\@waits, [], 'nor does the log know of one who did');

$sandbox->clear_faults;
$hub->wait_idle;
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'no invariant is broken');
is($hub->value(q(SELECT count(*) FROM sync.pending)), 0, 'and nothing is left');

$eye->quit;
$coffee->quit;
$node->stop;
done_testing();

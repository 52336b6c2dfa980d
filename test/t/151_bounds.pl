# What a hundred thousand held deliveries cost those that are not held: time, memory, and how long a
# transaction of the hub lasts. Held rows are written as the hub would write them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(sleep time);

my $MANY = 100_000;
my $hub = SyncExt::Hub->new('main', systems => ['billing'], conf => "autovacuum = off\n");
my $node = $hub->node;
my ($route, $object) = split /\|/, $hub->sql('SELECT id, object_id FROM sync.route');
my $oldest = 0;

sub own_kb
{
	my $status = PostgreSQL::Test::Utils::slurp_file('/proc/' . $hub->hub_pid . '/status');
	my ($kb) = $status =~ /^RssAnon:\s+(\d+)/m;

	return $kb;
}

# As wait_until, with an eye on the age of the hub's transaction.
sub watch_until
{
	my ($what, $test) = @_;

	$hub->wait_until($what, sub {
		my $age = $hub->value(q(SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
			FROM pg_stat_activity WHERE backend_type = 'sync_ext hub' AND backend_xmin IS NOT NULL));

		$oldest = $age if $age > $oldest;
		return $test->();
	});
	return;
}

# Held deliveries of records that do not exist; columns and values beside the common ones.
sub hold
{
	my ($n, $state, $columns, $values) = @_;

	$hub->sql("INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin,
			body, state$columns)
		SELECT $route, -nextval('sync.attempt_seq'), 1, now(), $object, '$state ' || i, 'I', 0, '{}', '$state'$values
		  FROM generate_series(1, $n) i");
	return;
}

sub restart
{
	$node->restart;
	$hub->wait_running;
	return;
}

sub arrives
{
	my ($name) = @_;
	my $began = time;
	my $id = $hub->write($name);

	watch_until($name, sub { $hub->value("SELECT count(*) = 1 FROM sync.external_id WHERE record_id = '$id'") eq 't' });
	return ($id, time - $began);
}

my ($first, $quick) = arrives('nothing held');
my $before = own_kb();

# ---- a hundred thousand dead, a hundred thousand that wait ----

hold($MANY, 'dead', '', '');
hold($MANY, 'waiting', ', wait_object_id, wait_record_id, next_attempt_at', ", $object, 'nobody ' || i, now() + interval '1 h'");
restart();
my ($second, $slow) = arrives('beside the held ones');
cmp_ok($slow, '<', $quick + 5, sprintf 'what is not held arrives in time: %.2f s, %.2f s before', $slow, $quick);
cmp_ok(own_kb() - $before, '<', 100_000, sprintf 'memory for %d held ones: %d kB', 2 * $MANY, own_kb() - $before);

my $began = time;
foreach my $round (1 .. 20)
{
	$hub->sql('SELECT sync._change()');
	$hub->rename($second, "round $round");
}
watch_until('the changes', sub { $hub->value(q(SELECT count(*) = 0 FROM sync._unfinished WHERE state IN ('queued', 'in_flight'))) eq 't' });
cmp_ok(time - $began, '<', 30, 'changes of configuration do not read them all each time');

# One of those that wait gets what it waits for.
my $awaited = $hub->new_id;
$hub->sql("UPDATE sync.pending SET wait_record_id = '$awaited', op = 'D' WHERE record_id = 'waiting 5'");
$hub->sql($hub->insert_sql($awaited, 'awaited'));
watch_until('the one that waits', sub {
	$hub->value(q(SELECT state <> 'waiting' FROM sync.pending WHERE record_id = 'waiting 5' UNION ALL SELECT true LIMIT 1)) eq 't' });
pass('it goes when that is bound');
is($hub->value(q(SELECT count(*) FROM sync.pending WHERE state = 'waiting')), $MANY - 1, 'and no other');
$hub->sql(q(DELETE FROM sync.pending));
restart();

# ---- a record with very many changes behind a dead one ----

$hub->sandbox->fault(kind => 'status', status => 400, times => 1, match => { method => 'POST' });
my $blocked = $hub->write('dead');
$hub->poll_until("SELECT count(*) = 1 FROM sync.dead_letter WHERE record_id = '$blocked'");
# In one transaction each of them would have to step over all versions of the row that came before.
$hub->sql("DO \$\$ BEGIN FOR i IN 1..$MANY LOOP UPDATE app.customer SET name = 'change ' || i WHERE id = '$blocked';
		IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END \$\$",
	timeout => 300);
watch_until('the changes', sub {
	$hub->value("SELECT count(*) = 1 FROM sync.pending WHERE record_id = '$blocked' AND merged = $MANY - 1") eq 't' });
is($hub->sql("SELECT state, body ->> 'name' FROM sync.pending WHERE record_id = '$blocked' ORDER BY seq"),
	"dead|dead\nbehind|change $MANY", 'they are one row, with the newest state');
is($hub->value("SELECT count(*) FROM sync.outcome WHERE final AND outcome = 'merged'"), $MANY - 1, 'each of the others is on record');
is($hub->value("SELECT p.first_event_at = (SELECT min(o.at) FROM sync.outbox o JOIN sync.outcome f ON f.seq = o.seq AND f.outcome = 'merged')
	FROM sync.pending p WHERE p.record_id = '$blocked' AND p.merged > 0"), 't', 'and how long ago the first of them was made');
cmp_ok(own_kb() - $before, '<', 100_000, 'and memory is what it was');
$hub->forget($blocked);
$hub->sql("SELECT sync.retry(id) FROM sync.dead_letter WHERE record_id = '$blocked'");
$hub->wait_idle;
is($hub->value("SELECT count(*) FROM sync.pending"), 0, 'all end when the first may go again');
is($hub->effects_of('billing')->{$blocked}[-1]{name}, "change $MANY", 'with the newest state');

# ---- a person frees a record while the hub does not look ----

$hub->sandbox->fault(kind => 'status', status => 400, times => 1, match => { method => 'POST' });
my $freed = $hub->write('to be discarded');
$hub->poll_until("SELECT count(*) = 1 FROM sync.dead_letter WHERE record_id = '$freed'");
$hub->rename($freed, 'behind it');
$hub->poll_until("SELECT count(*) = 2 FROM sync.pending WHERE record_id = '$freed'");
$hub->sql("SELECT sync.discard(id, 'test') FROM sync.pending WHERE record_id = '$freed' AND state = 'dead'");
$hub->rename($freed, 'and after');
$hub->wait_idle;
is($hub->effects_of('billing')->{$freed}[-1]{name}, 'and after', 'what comes after a discarded one is not held for ever');
$hub->forget($freed);

cmp_ok($oldest, '<', 1, sprintf 'no transaction of the hub kept a snapshot for a second: %.2f s', $oldest);
is_deeply([ $hub->broken ], [], 'nothing is lost, twice or out of order');
$node->stop;
done_testing();

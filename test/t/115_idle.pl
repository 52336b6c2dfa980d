# When wait_idle() says so, nothing goes by itself any more, and what it saw stays so after a crash: a create
# that was settled is not settled once more, what waited for another record is gone, too, and what a system
# changed under our hands has gone back to it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

# Else it puts what the hub commits on disk before anything can be killed.
my $hub = SyncExt::Hub->new('main', systems => ['crm'], options => { crm => { timeout => '1 s' } },
	conf => "wal_writer_delay = 10s\n");
my ($node, $sandbox) = ($hub->node, $hub->sandbox);

sub attempts { return $hub->value("SELECT count(*) FROM sync.claim WHERE record_id = '$_[0]'") }

# At once: whatever wakes the server's WAL writer meanwhile puts things on disk.
sub crash
{
	my ($pid) = @_;
	my $offset = $hub->log_size;

	kill 'KILL', $pid or die "cannot kill $pid: $!";
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	$hub->wait_up;
	return $hub->wait_running;
}

# ---- settled, then a crash ----
$sandbox->fault(kind => 'timeout_after_effect', ms => 3000, match => { path => '/rest/customers', method => 'POST' });
my $id = $hub->write('Ada 1');
my $pid = $hub->hub_pid;
$hub->wait_idle;
my $attempts = attempts($id);
ok($attempts > 1, 'a create that was not answered was looked up');
crash($pid);
isnt($hub->value("SELECT sync.remote_id('customer', '$id', 'crm')"), '', 'what was bound is bound after a crash of the server');
$hub->wait_idle;
is(attempts($id), $attempts, '… and nothing of it is settled again');
$pid = $hub->hub_pid;
# The first changes after a start write whole pages to the WAL, and these go to disk by themselves.
foreach my $n (2 .. 5)
{
	$hub->rename($id, "Ada $n");
	is($hub->value("SELECT outcome FROM sync.wait_for('customer', '$id', 'crm')"), 'done', 'an application is told that a change has arrived');
}
$attempts += 4;
crash($pid);
$hub->wait_idle;
is(attempts($id), $attempts, '… which stays so, too');
is_deeply([ $hub->broken ], [], 'each change took effect once');

# ---- what waits for another record ----
my $manifest = decode_json(SyncExt::Hub::manifest('rest'));
$manifest->{name} = 'desk';
$manifest->{objects}{deal} = { push => { operations => { create => { method => 'POST', path => '/rest/deals',
	body => { external_id => '$.id', name => '$.new.name', customer => { '$' => '$.new.customer_id', ref => 'customer' } },
	response => { remote_id => '$.id', record => '$' } } } } };
$node->secret('desk', 'token', $SyncExt::Hub::REST_TOKEN);
$hub->sql('SELECT sync.register_connector($manifest$' . encode_json($manifest) . '$manifest$::jsonb)');
$hub->sql("CREATE SERVER desk FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'desk', base_url '" . $sandbox->url . "', rate_limit '1000/s');
	CREATE USER MAPPING FOR PUBLIC SERVER desk OPTIONS (token 'file:token');
	CREATE TABLE app.deal (id uuid PRIMARY KEY, name text NOT NULL, customer_id uuid NOT NULL);
	SELECT sync.track('app.deal', 'deal');
	SELECT sync.pause('crm');
	SELECT sync.create_route('desk', o) FROM unnest('{customer,deal}'::text[]) o");
$sandbox->fault(kind => 'latency', ms => 2000, match => { path => '/rest/customers', method => 'POST' });
my ($buyer, $deal) = ($hub->new_id, $hub->new_id);
$hub->sql("INSERT INTO app.customer (id, name) VALUES ('$buyer', 'Bob'); INSERT INTO app.deal VALUES ('$deal', 'big', '$buyer')");
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$deal' AND state = 'waiting')");
$hub->arm('push-recorded', 'wait');
$hub->reached('push-recorded');
isnt($hub->value("SELECT sync.remote_id('customer', '$buyer', 'desk')"), '', 'what a delivery waits for is there');
is($node->wait_idle(1), 'f', '… so the hub is not idle, although it has not let it go yet');
$hub->disarm('push-recorded');
$hub->wait_idle;
isnt($hub->value("SELECT sync.remote_id('deal', '$deal', 'desk')"), '', 'idle is when it has arrived');

# ---- what a system changed while a change of ours was still to be sent there ----
my $there = $hub->value("SELECT sync.remote_id('customer', '$buyer', 'desk')");
$hub->sql("SELECT sync.create_stream('desk', 'customer', '1 day')");
$hub->wait_idle;
$sandbox->fault(kind => 'latency', ms => 1500 * $SyncExt::Cluster::patience, match => { path => '/rest/customers', method => 'GET' });
$sandbox->fault(kind => 'latency', ms => 1500 * $SyncExt::Cluster::patience, times => 2, match => { path => '/rest/customers', method => 'PATCH' });
$sandbox->rest(PATCH => "/customers/$there", { email => 'bob@example.com' },
	{ 'X-Sandbox-Actor' => 'eve', Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" });
my $asked = sub { scalar grep { $_->{method} eq 'GET' } @{ $sandbox->requests } };
my $before = $asked->();
$hub->sql("SELECT sync.request_pull('desk', 'customer')");
$hub->wait_until('the system to be asked', sub { $asked->() > $before });
$hub->sql("SELECT sync.pause('desk'); UPDATE app.customer SET name = 'Bob 2' WHERE id = '$buyer'");
$hub->poll_until("SELECT billing_email = 'bob\@example.com' FROM app.customer WHERE id = '$buyer'");
$hub->sql("SELECT sync.resume('desk')");
$hub->wait_idle;
is($hub->value("SELECT count(*) || ' ' || count(f) FROM sync.claim c JOIN sync.route r ON r.id = c.route_id LEFT JOIN sync.outcome f USING (route_id, seq, attempt_id)
	WHERE c.record_id = '$buyer' AND c.step = 'update' AND r.name LIKE '%desk'"), '2 2', 'idle is when both have ended');

# ---- a request that is under way ----
$sandbox->fault(kind => 'latency', ms => 4000 * $SyncExt::Cluster::patience, match => { path => '/rest/customers', method => 'PATCH' });
$hub->rename($buyer, 'Bob 3');
ok($hub->poll_until('SELECT sync._under_way() = 1'), 'the hub counts it');
my (undef, $out, $notice) = $node->psql('hub', q(SELECT sync.wait_idle('100 ms')));
is($out, 'f', 'meanwhile it is not idle');
like($notice, qr/not idle after 00:00:00\.1: event \d+ for route "customer_to_desk" is in_flight/, '… and says what it is about');
$hub->sql("SELECT sync.pause('desk')");
ok($hub->poll_until('SELECT sync._under_way() = 0'), 'a paused system does not count');
is($node->wait_idle(1), 't', '… nor is waited for');
$hub->sql("SELECT sync.resume('desk')");
$hub->wait_idle;
is($hub->value('SELECT sync._under_way()'), 0, 'nothing is under way when it is idle');
is_deeply([ $node->sql('SELECT * FROM sync.check_invariants()') ], [''], 'every invariant holds');
$node->stop;
done_testing();

# People and configuration come in between while deliveries are under way: nothing is lost, nothing
# done twice, nobody else waits.
use strict;
use warnings;

use JSON::PP;
use POSIX ();
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(sleep);

my $hub = SyncExt::Hub->new('disturbed');

# A session of its own that runs a statement and keeps its transaction open for some seconds.
sub hold_open
{
	my ($sql, $seconds) = @_;
	my $pid = fork();

	if (!$pid)
	{
		$hub->node->psql('hub', "BEGIN; $sql; SELECT pg_sleep($seconds); ROLLBACK");
		POSIX::_exit(0);
	}
	return $pid;
}

subtest 'a configuration that changes between two steps' => sub {
	my $plan = SyncExt::Hub::manifest('rest');

	$plan =~ s/"version": "1"/"version": "2"/;
	$plan =~ s/"push": \{/"push": {"plan": {"create": ["lookup", "create"], "update": ["update"], "delete": ["delete"]},/;
	$hub->sql("SELECT sync.register_connector(\$m\$$plan\$m\$::jsonb)");
	$hub->write('before');
	$hub->wait_idle;
	$hub->sandbox->fault(match => { path => '/rest/customers', method => 'GET' }, kind => 'latency', ms => 1500, times => 1);
	my $id = $hub->write('meanwhile');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.claim WHERE record_id = '$id' AND step = 'lookup')");
	$hub->sql("ALTER SERVER crm OPTIONS (SET settle_time '400 ms')");
	$hub->wait_idle;
	is(join(' ', $hub->broken), '', 'the delivery goes on to its end');
};

subtest 'a person who leaves his transaction open' => sub {
	$hub->sandbox->fault(match => { path => '/rest/customers', method => 'POST', body_contains => 'poison' },
		kind => 'status', status => 422, body => '{"code": "bad", "message": "no"}', times => 1);
	my $poison = $hub->write('poison');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE state = 'dead')");
	$hub->rename($poison, 'poison two');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE state = 'behind')");
	my $pid = hold_open("SELECT sync.discard(id) FROM sync.pending WHERE state = 'dead'", 12);
	$hub->poll_until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(12)%' AND wait_event = 'PgSleep')");
	$hub->rename($poison, 'poison three');
	my @others = map { $hub->write("neighbour $_") } 1 .. 3;
	my $list = join ', ', map { "'$_'" } @others;
	ok($hub->poll_until("SELECT count(*) = 6 FROM sync.record_status WHERE state = 'synced' AND record_id IN ($list)"),
		'others reach both systems');
	ok(waitpid($pid, POSIX::WNOHANG()) == 0, '… while he is still at it');
	waitpid $pid, 0;
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE state = 'dead'");
	$hub->wait_idle;
	is($hub->value('SELECT count(*) FROM sync.pending'), 0, 'afterwards the record goes on');
	is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'no invariant is broken');
};

subtest 'a delivery that died of not knowing' => sub {
	$hub->sql("ALTER SERVER crm OPTIONS (ADD max_attempts '2')");
	$hub->sandbox->fault(match => { path => '/rest/customers', method => 'POST', body_contains => 'unknown' }, kind => 'reset_after', times => 1);
	$hub->sandbox->fault(match => { path => '/rest/customers', method => 'GET' }, kind => 'reset_before', times => -1);
	my $id = $hub->write('unknown fate');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE state = 'dead' AND record_id = '$id')");
	$hub->sandbox->clear_faults;
	$hub->sql("SELECT sync.retry(id) FROM sync.pending WHERE record_id = '$id'");
	$hub->wait_idle;
	my @made = grep { ($_->{method} // '') eq 'POST' && ($_->{path} // '') eq '/rest/customers' }
		grep { index($_->{body} // '', $id) >= 0 } @{ $hub->sandbox->requests };
	is(scalar(@made), 1, 'retry() looks it up instead of making it again');
};

subtest 'a table that a migration has locked' => sub {
	$hub->sql('CREATE TABLE public.gate (open boolean); INSERT INTO public.gate VALUES (true)');
	$hub->sql("SELECT sync.drop_route('customer_to_crm', force => true)");
	$hub->sql("SELECT sync.create_route('crm', 'customer', \$c\$(SELECT open FROM public.gate)\$c\$)");
	my $pid = hold_open('LOCK TABLE public.gate IN ACCESS EXCLUSIVE MODE', 6);
	$hub->poll_until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(6)%' AND wait_event = 'PgSleep')");
	my $id = $hub->write('through the gate');
	ok($hub->poll_until("SELECT EXISTS (SELECT FROM sync.record_status WHERE record_id = '$id' AND system = 'billing' AND state = 'synced')"),
		'the other system is served');
	waitpid $pid, 0;
	ok($hub->poll_until("SELECT EXISTS (SELECT FROM sync.record_status WHERE record_id = '$id' AND system = 'crm' AND state = 'synced')"),
		'and this one when the lock is gone');
	is($hub->value('SELECT count(*) FROM sync.pending'), 0, 'nothing is dead for it');
};

subtest 'a login under way while its server is altered' => sub {
	my $json = JSON::PP->new->utf8->canonical;
	my $session = $json->decode(SyncExt::Hub::manifest('rest'));

	$session->{name} = 'session';
	$session->{parameters} = { account => { required => JSON::PP::true } };
	$session->{auth} = { type => 'session', login => { method => 'POST', path => '/rest/sessions', body => { account => '$.param.account' } },
		save => { token => '$.id' }, headers => { 'X-Session' => '${session.token}' } };
	my $text = $json->encode($session);
	$hub->sql("SELECT sync.register_connector(\$m\$$text\$m\$::jsonb)");
	$hub->node->secret('shop', 'token', $SyncExt::Hub::REST_TOKEN);
	$hub->sandbox->fault(kind => 'latency', ms => 1500, match => { path => '/rest/sessions' });
	$hub->sql("CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'session', account 'first', base_url '" . $hub->sandbox->url . "');
		CREATE USER MAPPING FOR PUBLIC SERVER shop OPTIONS (token 'file:token'); SELECT sync.create_route('shop', 'customer')");
	my $id = $hub->write('who is it?');
	$hub->wait_until('the login', sub { @{ $hub->sandbox->requests(path => '/rest/sessions') } });
	$hub->sql("ALTER SERVER shop OPTIONS (SET account 'second')");
	$hub->wait_idle;
	my @logins = map { $json->decode($_->{body})->{account} } @{ $hub->sandbox->requests(path => '/rest/sessions') };
	is("@logins", 'first second', 'it is not used: the server is asked again');
	my ($create) = grep { $_->{method} eq 'POST' && defined $_->{headers}{'x-session'} // $_->{headers}{'X-Session'} } @{ $hub->sandbox->requests(path => '/rest/customers') };
	my $sessions = $hub->sandbox->rest(GET => '/sessions', undef, { Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" })->{data};
	my ($second) = map { $_->{id} } grep { $_->{account} eq 'second' } @$sessions;
	is($create->{headers}{'x-session'} // $create->{headers}{'X-Session'}, $second, 'and what it says is sent');
	$hub->sql("SELECT sync.drop_route('customer_to_shop', force => true)");
};

subtest 'fewer requests at once than a system would take' => sub {
	$hub->sql('ALTER SYSTEM SET sync_ext.max_in_flight = 2');
	$hub->node->reload;
	$hub->write("narrow $_") foreach 1 .. 6;
	$hub->wait_idle(30);
	is($hub->value("SELECT count(*) FROM sync.record_status s JOIN app.customer c ON c.id::text = s.record_id WHERE c.name LIKE 'narrow%' AND s.state = 'synced'"), 12,
		'they are sent nevertheless');
	$hub->sql('ALTER SYSTEM RESET sync_ext.max_in_flight');
	$hub->node->reload;
};

subtest 'an adoption in mid-flow' => sub {
	my $id = $hub->write('before the adoption');
	$hub->wait_idle;
	$hub->sql('UPDATE sync.hub SET system_identifier = 1');
	$hub->write('while it is a copy');
	like($hub->value('SELECT sync.adopt_cluster()'), qr/incarnation 2/, 'adopted');
	$hub->rename($id, 'after the adoption');
	$hub->wait_idle;
	is($hub->value("SELECT count(*) FROM sync.record_status WHERE state <> 'synced'"), 0, 'both incarnations are delivered');
	is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'no invariant is broken');
};

$hub->node->stop;
done_testing();

# What is sent of a record is what was written, in the order in which it was written, also where
# changes of the system itself, an ambiguous attempt or a restart come in between.
use strict;
use warnings;

use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('order', options => { crm => { settle_time => '800 ms', timeout => '3 s' } });
my $sandbox = $hub->sandbox;
my $json = JSON::PP->new->utf8->canonical;
my %auth = (Authorization => "Bearer $SyncExt::Hub::REST_TOKEN");

$hub->sql("SELECT sync.create_stream('crm', 'customer')");

# Bodies that the record's requests to the system had, with the given method.
sub sent
{
	my ($id, $method) = @_;
	my $remote = $hub->value("SELECT sync.remote_id('customer', '$id', 'crm')");
	return grep { defined $_->{name} } map { $json->decode($_->{body}) }
	  grep { $_->{method} eq $method && ($_->{path} eq "/rest/customers/$remote" || ($_->{body} // '') =~ /$id/) } @{ $sandbox->requests(path => '/rest', limit => 5000) };
}

# A change of the vendor's own, pulled at once and without a request.
sub pulled
{
	my ($id, $email) = @_;
	my $remote = $hub->value("SELECT sync.remote_id('customer', '$id', 'crm')");
	my $record = $sandbox->rest(PATCH => "/customers/$remote", { email => $email }, { %auth, 'X-Sandbox-Actor' => 'vendor' });
	my $item = $json->encode([$record]);

	is($hub->value("SELECT applied FROM sync._apply_page((SELECT id FROM sync.stream LIMIT 1), \$i\$$item\$i\$)"), 1, "$email is pulled");
	return;
}

subtest 'events that are older than a pulled change' => sub {
	my $id = $hub->write('stale 1');
	$hub->wait_idle;
	$hub->sql("SELECT sync.pause('crm')");
	$hub->rename($id, 'stale 2');
	pulled($id, 'new@crm.example');
	$hub->rename($id, "stale $_") foreach 3 .. 5;
	$hub->sql("SELECT sync.resume('crm')");
	$hub->wait_idle;
	my @sent = sent($id, 'PATCH');
	is(join(', ', map { $_->{name} } @sent), 'stale 2, stale 2, stale 3, stale 4, stale 5', 'and it itself keep their own state, in order');
	is(scalar(grep { $_->{email} ne 'new@crm.example' } @sent), 0, '… and none takes the pulled change back');
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
};

subtest 'a request that is repeated after the record has changed' => sub {
	my $id = $hub->write('again 1');
	$hub->wait_idle;
	$hub->sql("SELECT sync.pause('crm')");
	$hub->rename($id, 'again 2');
	pulled($id, 'again@crm.example');
	$sandbox->fault(kind => 'status', status => 500, effect => JSON::PP::true, match => { method => 'PATCH', body_contains => 'again 2' });
	$sandbox->fault(kind => 'latency', ms => 2000, match => { method => 'PATCH', body_contains => 'again 3' });
	$hub->sql("SELECT sync.resume('crm')");
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$id' AND state = 'ambiguous')");
	$hub->rename($id, 'again 3');
	$hub->wait_until('the next change to be sent', sub { grep { $_->{name} eq 'again 3' } sent($id, 'PATCH') });
	is($hub->value("SELECT fields ->> 'name' FROM sync.mirror m JOIN sync.system y ON y.id = m.system_id WHERE y.name = 'crm' AND m.record_id = '$id'"), 'again 2',
		'its answer is known to say what we sent, so no pull takes it for news');
	$hub->sql("SELECT sync.request_pull('crm', 'customer')");
	$hub->wait_idle;
	is($hub->value("SELECT name FROM app.customer WHERE id = '$id'"), 'again 3', 'the row keeps its newest state');
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
};

subtest 'a request that was looked up and not found' => sub {
	$sandbox->fault(kind => 'reset_before', match => { method => 'POST', path => '/rest/customers' });
	my $id = $hub->write('frozen');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$id' AND state = 'ambiguous')");
	my $other = SyncExt::Hub::manifest('rest');
	$other =~ s/"version": "1"/"version": "1b"/;
	$other =~ s/"body": \{"external_id": "\$.id",/"body": {"external_id": "\$.id", "rendered": "anew",/;
	$hub->sql("SELECT sync.register_connector(\$m\$$other\$m\$::jsonb)");
	$hub->wait_idle;
	my @sent = sent($id, 'POST');
	is(scalar @sent, 2, 'is sent again');
	is_deeply($sent[1], $sent[0], '… as it was');
	$hub->write('anew');
	$hub->wait_idle;
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
};

subtest 'a request that was throttled and comes out otherwise' => sub {
	$sandbox->fault(kind => 'status', status => 429, headers => { 'Retry-After' => '2' }, body => '{}', match => { method => 'POST', path => '/v1/customers' });
	my $id = $hub->write('throttled');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.outcome o JOIN sync.claim c USING (route_id, seq, attempt_id) WHERE c.record_id = '$id' AND o.outcome = 'throttled')");
	my $other = SyncExt::Hub::manifest('stripe');
	$other =~ s/"version": "1.0.0"/"version": "1.0.1"/;
	$other =~ s/"metadata": \{"sync_id": "\$.id", "number"/"description": "anew", "metadata": {"sync_id": "\$.id", "number"/;
	$hub->sql("SELECT sync.register_connector(\$m\$$other\$m\$::jsonb)");
	$hub->wait_idle;
	is($hub->sql("SELECT count(*), count(DISTINCT c.idempotency_key), count(DISTINCT c.request_hash) FROM sync.claim c WHERE c.record_id = '$id' AND c.target = '/v1/customers'"), '2|2|2',
		'has a key of its own');
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
};

# A record whose next requests meet these faults; as after a promotion, when what this server knows of the events
# so far need not be all.
sub suspect
{
	my ($name, @faults) = @_;
	my $id = $hub->write("$name 1");

	$hub->wait_idle;
	$hub->sql("UPDATE sync.hub SET suspect_before = clock_timestamp() + interval '1 hour'; SELECT sync.pause('crm')");
	$sandbox->fault(%$_, match => { method => 'POST', path => '/v1/customers', body_contains => $name }) foreach @faults;
	return $id;
}

# Attempts and keys of its update.
sub attempts_and_keys
{
	my ($id) = @_;
	return $hub->sql("SELECT count(*), count(DISTINCT idempotency_key) FROM sync.claim WHERE record_id = '$id' AND step = 'update' AND idempotency_key IS NOT NULL");
}

sub end_of_suspicion
{
	my ($id, $wanted, $what) = @_;
	my $asked = $wanted eq '4|4' ? 1 : 0;

	$hub->sql("SELECT sync.resume('crm')");
	$hub->wait_idle;
	is(attempts_and_keys($id), $wanted, $what);
	is($hub->value("SELECT count(*) FROM sync.pending WHERE record_id = '$id'"), $asked, $asked ? 'a person is asked then' : 'and nobody is asked');
	$hub->sql('UPDATE sync.hub SET suspect_before = NULL; SELECT sync._change()');
	$hub->sql("SELECT sync.discard(id, 'the vendor refuses it') FROM sync.pending WHERE record_id = '$id'");
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
	return;
}

my %refused = (kind => 'status', status => 400,
	body => '{"error": {"type": "idempotency_error", "message": "Keys for idempotent requests can only be used with the same parameters"}}');

subtest 'a key that a lost server has spent on another request' => sub {
	foreach my $case (
		[ 'spent', '2|2', 'the change is sent under another', \%refused ],
		[ 'unheard', '3|2', '… also when the first try was not answered', { kind => 'reset_before' }, \%refused ],
		[ 'both', '3|3', '… and under a third, since two servers may be lost', (\%refused) x 2 ],
		[ 'refused', '4|4', '… but not for ever', (\%refused) x 4 ])
	{
		my ($name, $wanted, $what, @faults) = @$case;
		my $id = suspect($name, @faults);

		$hub->rename($id, "$name 2");
		$hub->poll_until("SELECT EXISTS (SELECT FROM sync.outcome o JOIN sync.claim c USING (route_id, seq, attempt_id) WHERE c.record_id = '$id' AND c.step = 'update' AND o.state IN ('done', 'dead'))");
		end_of_suspicion($id, $wanted, $what);
	}
};

subtest 'a server that dies when it has heard that a key was spent' => sub {
	foreach my $case ([ 'push-answered', 'deaf', '3|2', 'hears it again, and sends the change under another' ],
		[ 'push-recorded', 'blind', '2|2', 'knows it if it was on record' ])
	{
		my ($point, $name, $wanted, $what) = @$case;
		my $id = suspect($name, (\%refused) x ($point eq 'push-answered' ? 2 : 1));

		$hub->arm($point, 'wait');
		$hub->rename($id, "$name 2");
		$hub->reached($point);
		$hub->sql("CREATE TABLE app.$name ()"); # outcomes reach the disk with the next commit that waits for it
		$hub->power_off;
		$hub->disarm($point);
		$hub->node->start;
		$hub->wait_running;
		end_of_suspicion($id, $wanted, $what);
	}
};

subtest 'what is refused after a takeover, and deleted here since' => sub {
	my $id = suspect('canceled', (\%refused) x 4);

	$hub->sql("SELECT sync.pause('billing')");
	$hub->rename($id, 'canceled 2');
	$hub->sql("DELETE FROM app.customer WHERE id = '$id'");
	$hub->sql('SELECT sync.resume(name) FROM sync.system');
	$hub->wait_idle;
	is($hub->sql("SELECT o.outcome, o.state, o.code FROM sync.claim c JOIN sync.outcome o USING (route_id, seq, attempt_id) WHERE c.record_id = '$id' AND c.step = 'update' AND o.final ORDER BY c.route_id"),
		"rejected|ignored|gone\ndone|done|", 'is passed over by the one that refuses it');
	is(scalar(grep { $_->{path} =~ m{^/v1/customers/} && $_->{method} eq 'DELETE' } @{ $sandbox->effects }), 1, 'and deleted there');
	$hub->sql('UPDATE sync.hub SET suspect_before = NULL; SELECT sync._change()');
	$hub->forget($id);
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
};

subtest 'a second ambiguity is looked up as often as the first' => sub {
	$sandbox->fault(kind => 'reset_before', match => { method => 'POST', path => '/rest/customers' }, times => 2);
	my $id = $hub->write('twice lost');
	$hub->wait_idle;
	is(scalar(grep { $_->{method} eq 'GET' && $_->{query} =~ /$id/ } @{ $sandbox->requests(path => '/rest', limit => 5000) }), 4, 'two look-ups each');
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
};

subtest 'a pulled change that was passed over is not taken up again' => sub {
	$hub->sql('ALTER SYSTEM SET sync_ext.checkpoint_interval = 60000');
	$hub->node->reload;
	my $id = $hub->write('echo 1');
	$hub->wait_idle;
	# While a request is out, the cursor stays where it is.
	$sandbox->fault(kind => 'latency', ms => 15000, match => { method => 'POST', path => '/rest/customers', body_contains => 'slow one' });
	$hub->sql("ALTER SERVER crm OPTIONS (SET timeout '30 s')");
	$hub->write('slow one');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.claim WHERE request LIKE '%slow one%')");
	pulled($id, 'echo@crm.example');
	my $echo = $hub->value("SELECT max(seq) FROM sync.outbox WHERE record_id = '$id'");
	my $done = $hub->write('behind it');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.record_status WHERE record_id = '$done' AND system = 'billing' AND state = 'synced')");
	$sandbox->fault(kind => 'reset_before', match => { method => 'PATCH', path => '/rest/customers' });
	$hub->rename($id, 'echo 2');
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$id' AND state = 'ambiguous')");
	$hub->power_off;
	$hub->node->start;
	$hub->wait_running;
	$hub->wait_idle;
	is($hub->value("SELECT count(*) FROM sync.claim c JOIN sync.route r ON r.id = c.route_id JOIN sync.system y ON y.id = r.system_id WHERE c.seq = $echo AND y.name = 'crm'"), 0,
		'it was made when nothing of the record was under way, and is no delivery after the restart either');
	is_deeply([ $hub->broken(systems => ['crm']) ], [], 'all is well');
};

$hub->node->stop;
done_testing();

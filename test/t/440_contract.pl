# A vendor changes its records: they wait instead of being guessed at, everybody is told once, the new
# manifest is looked at beside the old one, and when it becomes current everything arrives.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $hub = SyncExt::Hub->new('contract', systems => []);
my $sandbox = $hub->sandbox;
my $node = $hub->node;

# The plain vendor's manifest, whose records must have a plan out of a list.
sub manifest
{
	my ($version, @plans) = @_;
	my $manifest = $json->decode(SyncExt::Hub::manifest('rest'));
	my $customer = $manifest->{objects}{customer};

	@$manifest{qw(name version)} = ('contracted', $version);
	$customer->{push}{operations}{$_}{body}{source} = "hub $version" foreach qw(create update);
	$customer->{pull}{contract} = {
		version => "contract $version",
		schema => {
			type => 'object',
			required => [qw(id name)],
			properties => { name => { type => 'string' }, plan => { enum => [ undef, @plans ] } }
		}
	};
	return $json->encode($manifest);
}

sub register
{
	my ($manifest, $activate) = @_;

	return $hub->value("SELECT sync.register_connector(\$manifest\$$manifest\$manifest\$::jsonb, activate => $activate)");
}

sub pull
{
	$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
	$hub->wait_idle;
	return;
}

sub drifts { return $hub->value('SELECT count(*) FROM sync.drift WHERE state = $$open$$') }
sub names { return $hub->value(q(SELECT string_agg(name, ',' ORDER BY name) FROM app.customer)) }

register(manifest('1', 'basic'), 'true');
$node->secret('crm', 'token', $SyncExt::Hub::REST_TOKEN);
$hub->sql("CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'contracted',
		base_url '" . $sandbox->url . "', settle_time '300 ms', rate_limit '1000/s', timeout '3 s');
	CREATE USER MAPPING FOR PUBLIC SERVER crm OPTIONS (token 'file:token');
	SELECT sync.create_route('crm', 'customer');
	SELECT sync.create_stream('crm', 'customer')");

my $listener;

sub start_listening
{
	$listener = $node->background_psql('hub');
	$listener->query_safe('LISTEN sync_drift');
	return;
}

# How many drifts were announced since; they come with the answer to the next statement.
sub heard
{
	my $text = join "\n", map { $listener->query('SELECT 1') } 1 .. 2;

	return scalar(() = $text =~ /drift_detected/g);
}

start_listening();

# ---- what no longer fits waits, and holds up nobody ----

$sandbox->rest(POST => '/customers', { name => 'Aster', plan => 'basic' });
$sandbox->rest(POST => '/customers', { name => "Gold $_", plan => 'gold' }) foreach 1 .. 20;
$sandbox->rest(POST => '/customers', { name => 'Zinnia' });
pull();
is(names(), 'Aster,Zinnia', 'records that fit are applied');
is($hub->value('SELECT count(*) FROM sync.inbox_status WHERE state = $$failed$$'), 20, 'the others wait, each by itself');
is($hub->value(q(SELECT concat_ws(', ', path, kind, got, contract_version, records) FROM sync.drift)),
	'/plan, value, "gold", contract 1, 20', 'and are one drift');
is(heard(), 1, 'which is announced once');
is($hub->value(q(SELECT count(*) FROM sync.health() WHERE "check" = 'drift crm customer' AND status = 'warning')), 1, 'and shown by health()');

# ---- versions side by side ----

$hub->sql(q(INSERT INTO app.customer (name) VALUES ('Sent')));
$hub->wait_idle;
is(register(manifest('2', 'basic', 'gold'), 'false'), 'contracted 2', 'a new version is registered beside the current one');
is($hub->value(q(SELECT string_agg(DISTINCT field, ',') FROM sync.manifest_preview('contracted', '2')
	WHERE direction = 'pull' AND record_id IS NULL)), '(code),(reason),(status),name', 'the preview says which records it could read');
is($hub->value(q(SELECT count(DISTINCT remote_id) FROM sync.manifest_preview('contracted', '2') WHERE direction = 'pull')), 20, 'all of them');
is($hub->value(q(SELECT count(*) FROM sync.manifest_preview('contracted', '2')
	WHERE direction = 'push' AND current ->> 'body' LIKE '%hub 1%' AND candidate ->> 'body' LIKE '%hub 2%'
	  AND (SELECT c.name FROM app.customer c WHERE c.id::text = record_id) = 'Sent')), 1, 'and what requests would look like');
is($hub->value('SELECT version FROM sync.connector_version WHERE current AND connector = $$contracted$$'), '1', 'nothing has changed yet');
is($hub->value('SELECT count(*) FROM sync.inbox'), 20, 'nor been applied');

# The hub dies between the change and what follows from it.
$hub->sql(q(SELECT sync.activate_connector('contracted', '2')));
$node->kill9_worker;
$node->poll_until('SELECT count(*) = 0 FROM sync.inbox');
is($hub->value('SELECT count(*) FROM app.customer'), 23, 'with the new version everything that waited arrives');
is(drifts(), 0, 'the drift is resolved');
is($hub->value('SELECT count(*) = count(DISTINCT remote_id) FROM sync.external_id'), 't', 'nothing twice');

# ---- the way back, and the next drift ----

# The listener died with the server.
start_listening();
$hub->sql(q(SELECT sync.activate_connector('contracted', '1')));
$sandbox->rest(POST => '/customers', { name => 'Late', plan => 'gold' });
pull();
is($hub->value(q(SELECT concat_ws(', ', state, records > 0) FROM sync.drift)), 'open, t', 'what was resolved opens again when it is seen again');
is(heard(), 1, 'and is announced again');
$listener->quit;
is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'all invariants hold');

done_testing();

# A real ERP on one side: what Tryton may not change of a customer is corrected in Tryton, what it may
# goes on to billing, and what both have changed waits for a person.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use SyncExt::Sandbox;
use SyncExt::Tryton;
use Test::More;

plan skip_all => 'tryton-server is not installed' if !-x SyncExt::Tryton::TRYTOND;

my $tryton = SyncExt::Tryton->new;
$tryton->start;
my $sandbox = SyncExt::Sandbox->start;
my $ids = $tryton->ids;
(my $erp_url = $tryton->url) =~ s{/$}{};
my $node = SyncExt::Cluster->new('main', database => 'hub',
	conf => "sync_ext.allowed_hosts = 'http://127.0.0.1:" . $sandbox->port . ", http://127.0.0.1:" . $tryton->port . "'\n");
my $connectors = "$FindBin::Bin/../../connectors";

$node->secret('billing', 'api_key', $sandbox->api_key);
$node->secret('erp', 'password', $tryton->password);
$node->sql('SELECT sync.adopt_cluster(); SELECT sync.create_canonical_model()');
foreach my $name (qw(stripe tryton))
{
	my $text = PostgreSQL::Test::Utils::slurp_file("$connectors/$name.json");
	$node->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
}
$node->sql("INSERT INTO canonical.legal_entity (code, name, country, functional_currency, timezone)
		VALUES ('DE', 'Demo GmbH', 'DE', 'EUR', 'Europe/Berlin');
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{legal_entity,customer}'::text[]) t;
	CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext
		OPTIONS (connector 'stripe', base_url '" . $sandbox->url . "', legal_entity 'DE', rate_limit '200/s');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key');
	CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext
		OPTIONS (connector 'tryton', base_url '$erp_url', legal_entity 'DE', max_in_flight '1', company '$ids->{company}',
			journal '$ids->{journal}', receivable_account '$ids->{account}{receivable}',
			revenue_account '$ids->{account}{revenue}', tax_account '$ids->{account}{tax}');
	CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (password 'file:password');
	SELECT sync.create_route(s, 'customer'), sync.create_stream(s, 'customer') FROM unnest('{billing,erp}'::text[]) s");
$node->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running')));

END { diag($node->sql('SELECT object, remote_id, state, reason FROM sync.inbox_status; SELECT system, object, last_error FROM sync.stream_status; SELECT * FROM sync.health()')) if $? && $node && $node->{_pid} }

sub idle { return is($node->wait_idle(90), 't', "$_[0]: all is delivered") }

sub pull
{
	my ($name, @systems) = @_;
	$node->sql("SELECT sync.request_pull(s, 'customer') FROM unnest('{" . join(',', @systems) . "}'::text[]) s");
	return idle($name);
}

sub row { return $node->value("SELECT $_[1] FROM canonical.customer WHERE number = '$_[0]'") }
sub party { my ($number) = @_; my ($party) = grep { $_->{code} eq $number } @{ $tryton->parties }; return $party }

sub billed
{
	my ($number) = @_;
	my $id = $node->value("SELECT x.remote_id FROM canonical.customer c JOIN sync.external_id x ON x.record_id = c.id::text
		JOIN sync.system y ON y.id = x.system_id AND y.name = 'billing' WHERE c.number = '$number'");
	my (undef, $customer) = $sandbox->stripe(GET => "/v1/customers/$id");
	return $customer;
}

# Somebody at the ERP's desk.
sub new_email
{
	my ($number, $email) = @_;
	my $found = $tryton->model('party.contact_mechanism.search', [ [ 'party', '=', $tryton->party_id($number) ], [ 'type', '=', 'email' ] ], 0, 1, undef);
	$tryton->model('party.contact_mechanism.write', $found, { value => $email });
	return;
}

sub own
{
	my ($field, $system, $violation) = @_;
	$node->sql("INSERT INTO sync.owner (object_id, field, system_id, on_violation)
		SELECT o.id, '$field', y.id, '$violation' FROM sync.object o, sync.system y WHERE o.name = 'customer' AND y.name = '$system'
		ON CONFLICT (object_id, field) DO UPDATE SET on_violation = excluded.on_violation");
	return;
}

$node->sql("INSERT INTO canonical.customer (number, name, currency, billing_email)
	SELECT 'C-' || n, 'Customer ' || n, 'EUR', 'c' || n || '\@example.com' FROM generate_series(1, 3) n");
idle('made');
pull('echo', 'erp', 'billing');
is(party('C-1')->{name} . '|' . billed('C-1')->{name}, 'Customer 1|Customer 1', 'both have them');

# ---- billing owns the name ----

own('name', 'billing', 'correct');
$tryton->rename_party('C-1', 'Renamed in the ERP');
new_email('C-1', 'erp@example.com');
pull('violation', 'erp');
is(row('C-1', 'name'), 'Customer 1', 'the name stays');
is(party('C-1')->{name}, 'Customer 1', 'and is corrected in Tryton');
is(row('C-1', 'billing_email'), 'erp@example.com', 'the address, which nobody owns, goes in');
is(billed('C-1')->{email}, 'erp@example.com', 'and on to billing');
is($node->value("SELECT outcome || ' ' || field || ' ' || record_number FROM sync.violation"), 'corrected name C-1', 'a person can see it');
pull('nothing new', 'erp', 'billing', 'erp');
is(party('C-1')->{name} . '|' . row('C-1', 'name'), 'Customer 1|Customer 1', 'and there it rests');

# ---- a person is asked, and decides for the ERP ----

own('name', 'billing', 'quarantine');
$tryton->rename_party('C-2', 'Merged & Co');
pull('held', 'erp');
is($node->sql("SELECT kind, record_number, field, system, hub_value #>> '{}', remote_value #>> '{}', policy FROM sync.conflict"),
	'violation|C-2|name|erp|Customer 2|Merged & Co|billing owns it; quarantine', 'a conflict, with what Tryton says');
is(party('C-2')->{name} . '|' . billed('C-2')->{name}, 'Merged & Co|Customer 2', 'neither side is changed');
$node->sql("SELECT sync.resolve_conflict(id, 'remote', 'they have merged') FROM sync.conflict");
idle('decided');
is(row('C-2', 'name') . '|' . billed('C-2')->{name}, 'Merged & Co|Merged & Co', 'decided: the owner is told');
is($node->value("SELECT count(*) FROM sync.conflict"), 0, 'and the conflict is over');

is($node->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants');
is($node->value('SELECT count(*) FROM sync.pending') + $node->value('SELECT count(*) FROM sync.inbox'), 0, 'nothing is stuck');
$node->stop;
done_testing();

# A full listing of a real ERP: it is asked how many it has, what somebody changed at its desk is found, and
# a backfill brings what it has had all along.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use SyncExt::Tryton;
use Test::More;

plan skip_all => 'tryton-server is not installed' if !-x SyncExt::Tryton::TRYTOND;

my $tryton = SyncExt::Tryton->new;
$tryton->start;
my $ids = $tryton->ids;
(my $erp_url = $tryton->url) =~ s{/$}{};
my $node = SyncExt::Cluster->new('main', database => 'hub',
	conf => "sync_ext.allowed_hosts = 'http://127.0.0.1:" . $tryton->port . "'\n");
my $text = PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../connectors/tryton.json");

$node->secret('erp', 'password', $tryton->password);
$node->sql('SELECT sync.adopt_cluster(); SELECT sync.create_canonical_model()');
$node->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
$node->sql("INSERT INTO canonical.legal_entity (code, name, country, functional_currency, timezone)
		VALUES ('DE', 'Demo GmbH', 'DE', 'EUR', 'Europe/Berlin');
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{legal_entity,customer}'::text[]) t;
	CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext
		OPTIONS (connector 'tryton', base_url '$erp_url', legal_entity 'DE', max_in_flight '2', company '$ids->{company}',
			journal '$ids->{journal}', receivable_account '$ids->{account}{receivable}',
			revenue_account '$ids->{account}{revenue}', tax_account '$ids->{account}{tax}');
	CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (password 'file:password');
	INSERT INTO canonical.customer (kind, number, name, billing_email)
		SELECT 'organization', 'B-' || i, 'Before ' || i, 'b' || i || '\@example.com' FROM generate_series(1, 5) i;
	SELECT sync.create_route('erp', 'customer'); SELECT sync.create_stream('erp', 'customer')");
$node->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running')));

END { diag($node->sql('SELECT * FROM sync.job; SELECT object, remote_id, state, reason FROM sync.inbox_status; SELECT * FROM sync.health()')) if $? && $node && $node->{_pid} }

sub ends
{
	my ($job) = @_;
	$node->poll_until("SELECT state NOT IN ('queued', 'running') FROM sync.job WHERE id = $job");
	return is($node->value("SELECT state FROM sync.job WHERE id = $job"), 'done', "job $job has ended");
}

sub run_full
{
	my $run = $node->value(q(SELECT sync.reconcile('erp', 'customer', mode => 'full')));
	ends($node->value("SELECT job_id FROM sync.reconciliation WHERE id = $run"));
	return [ sort split /\n/, $node->sql(q(SELECT kind || ' ' || coalesce(record_number, '-') || coalesce(' ' || field, '') FROM sync.break_entry WHERE status <> 'resolved')) ];
}

# What was here before the route, by a backfill.
ends($node->value(q(SELECT sync.backfill('erp', 'customer', reason => 'go-live'))));
is($node->wait_idle(90), 't', 'all is delivered');
is(scalar(grep { ($_->{code} // '') =~ /^B-/ } @{ $tryton->parties }), 5, 'a backfill brings customers of before into the ERP');

# What the ERP has had all along.
ends($node->value(q(SELECT sync.backfill('erp', 'customer', 'pull'))));
is($node->wait_idle(90), 't', 'all is applied');
is($node->value(q(SELECT count(*) FROM canonical.customer WHERE number LIKE 'B-%')), 5, 'nothing came twice');
is_deeply(run_full(), [], 'then both agree');
is($node->value(q(SELECT result ->> 'told_count' FROM sync.job WHERE kind = 'full_listing')), 1 + @{ $tryton->parties }, 'the ERP was asked how many it has, its own company too');

# Somebody at the ERP's desk, while no stream looks.
$tryton->model('party.party.write', [ $tryton->party_id('B-2') ], { name => 'Renamed at the desk' });
is_deeply(run_full(), ['field_differs B-2 name'], 'what somebody changed at its desk is found, and nothing else');
$node->sql(q(SELECT sync.request_pull('erp', 'customer')));
is($node->wait_idle(90), 't', 'the stream has brought it');
is_deeply(run_full(), [], 'and the break is closed');

done_testing;

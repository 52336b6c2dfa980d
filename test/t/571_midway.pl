# A document that is read between two steps of its push is none yet: what a pull takes of the draft would
# stand here for good, since the last step's answer is no news to the pull that comes after it.
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
my $node = SyncExt::Cluster->new('main', database => 'hub', conf => "sync_ext.allowed_hosts = 'http://127.0.0.1:" . $tryton->port . "'\n");
(my $url = $tryton->url) =~ s{/$}{};

$node->secret('erp', 'password', $tryton->password);
# So few requests a second that a pull comes between the steps.
$node->sql("SELECT sync.adopt_cluster(); SELECT sync.create_canonical_model(); SELECT sync.register_connector('tryton');
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{legal_entity,customer,invoice}'::text[]) t;
	INSERT INTO canonical.legal_entity (code, name, country, functional_currency, timezone) VALUES ('DE', 'Demo', 'DE', 'EUR', 'Europe/Berlin');
	CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'tryton', base_url '$url', legal_entity 'DE', max_in_flight '1', rate_limit '4/s',
		company '$ids->{company}', journal '$ids->{journal}', receivable_account '$ids->{account}{receivable}',
		revenue_account '$ids->{account}{revenue}', tax_account '$ids->{account}{tax}');
	CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (password 'file:password');
	SELECT sync.create_route('erp', 'customer'), sync.create_route('erp', 'invoice', \$\$status = 'open'\$\$);
	SELECT sync.create_stream('erp', 'customer', '1 s'), sync.create_stream('erp', 'invoice', '1 s')");
$node->sql(q(INSERT INTO canonical.customer (number, name) VALUES ('C-1', 'Acme')));
is($node->wait_idle(60), 't', 'the customer is there');

# As a document that the ERP has lost is sent again: here it has been posted.
foreach my $n (1 .. 4)
{
	$node->sql("WITH i AS (INSERT INTO canonical.invoice (customer_id, legal_entity_id, number, status, issue_date, posting_status, posting_date, currency, net_amount, total_amount, amount_due)
			SELECT c.id, e.id, 'INV-$n', 'open', current_date, 'posted', current_date, 'EUR', 10, 10, 10 FROM canonical.customer c, canonical.legal_entity e RETURNING id)
		INSERT INTO canonical.invoice_line (invoice_id, line_no, description, quantity, unit_price, net_amount) SELECT id, 1, 'Seats', 1, 10, 10 FROM i");
}
is($node->wait_idle(120), 't', 'the invoices are there');
my $since = $node->value('SELECT clock_timestamp()');
$node->poll_until("SELECT bool_and(finished_at > '$since' AND started_at > '$since') FROM sync.stream_status", 60);
is($node->wait_idle(60), 't', 'and have been pulled');
is($node->sql(q(SELECT DISTINCT i.posting_status, m.fields ->> 'posting_status' FROM canonical.invoice i JOIN sync.mirror m ON m.record_id = i.id::text)), 'posted|posted',
	'they are posted on both sides');
diag($node->sql('SELECT object, system, state, waiting_for, last_error FROM sync.record_status; SELECT * FROM sync.inbox_status')) if !Test::More->builder->is_passing;
$node->stop;
done_testing();

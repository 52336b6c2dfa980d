# What the month needs of a real ERP: two companies that are two systems, invoices known by our id and compared without being
# taken over, credit notes that are posted as what they are, payments that go all the way to succeeded, once.
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
my %ids = (DE => $tryton->ids, US => $tryton->add_company('Demo Inc', 'USD'));
my $node = SyncExt::Cluster->new('main', database => 'hub', conf => "sync_ext.allowed_hosts = 'http://127.0.0.1:" . $tryton->port . "'\n");
my @objects = qw(customer invoice credit_note payment);
my %timezone = (DE => 'Europe/Berlin', US => 'America/New_York');
(my $url = $tryton->url) =~ s{/$}{};

$node->sql('SELECT sync.adopt_cluster(); SELECT sync.create_canonical_model()');
my $manifest = PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../connectors/tryton.json");
$node->sql("SELECT sync.register_connector(\$manifest\$$manifest\$manifest\$::jsonb);
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{legal_entity,@{[join ',', @objects]}}'::text[]) t");
foreach my $code (qw(DE US))
{
	my $system = lc "erp_$code";

	$node->secret($system, 'password', $tryton->password);
	$node->sql("INSERT INTO canonical.legal_entity (code, name, country, functional_currency, timezone)
			VALUES ('$code', 'Demo $code', '$code', '" . ($code eq 'DE' ? 'EUR' : 'USD') . "', '$timezone{$code}');
		CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'tryton', base_url '$url', legal_entity '$code', max_in_flight '1',
			company '$ids{$code}{company}', journal '$ids{$code}{journal}', receivable_account '$ids{$code}{account}{receivable}',
			revenue_account '$ids{$code}{account}{revenue}', tax_account '$ids{$code}{account}{tax}');
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS (password 'file:password')");
}

END { diag($node->sql('SELECT object, remote_id, state, reason FROM sync.inbox_status; SELECT system, object, last_error FROM sync.stream_status; SELECT object, record_id, system, state, last_error FROM sync.record_status WHERE last_error IS NOT NULL')) if $? && $node && $node->{_pid} }

sub pull
{
	my ($name) = @_;
	$node->sql("SELECT sync.request_pull(s, o) FROM unnest('{erp_de,erp_us}'::text[]) s, unnest('{@{[join ',', @objects]}}'::text[]) o");
	return is($node->wait_idle(90), 't', "$name: all is in");
}

# ---- history: the hub has it, the ERP was loaded with it ----

$node->sql("INSERT INTO canonical.customer (number, name, currency) SELECT 'C-' || n, 'Customer ' || n, 'EUR' FROM generate_series(0, 3) n;
	INSERT INTO canonical.invoice (customer_id, legal_entity_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount, amount_due)
	SELECT c.id, e.id, e.code || '-' || n, 'paid', make_date(extract(year FROM now())::int, 1, 1 + n), x.cur, x.net, x.tax, x.net + x.tax, 0
	  FROM canonical.legal_entity e, generate_series(0, 11) n JOIN canonical.customer c ON c.number = 'C-' || n % 4,
	       LATERAL (VALUES (0, 'EUR', 39.98, 7.60), (1, 'USD', 25.00, 4.75), (2, 'JPY', 1960, 196)) x (k, cur, net, tax) WHERE x.k = n % 3;
	INSERT INTO canonical.payment (customer_id, legal_entity_id, status, amount, currency, processor_ref, attempted_at)
	SELECT customer_id, legal_entity_id, 'succeeded', total_amount, currency, 'ch_' || number, issue_date + time '12:00' FROM canonical.invoice");
my $rows = sub {
	my ($code) = @_;
	return map { split /\n/ } $node->sql("SELECT json_build_object('kind', 'party', 'code', number, 'name', name, 'city', 'Bonn') FROM canonical.customer"),
	  $node->sql("SELECT json_build_object('kind', 'invoice', 'reference', i.number, 'description', i.id, 'party', c.number, 'currency', i.currency, 'date', issue_date,
		'state', CASE WHEN i.number LIKE '%-9' THEN 'draft' WHEN i.number LIKE '%-8' THEN 'posted' ELSE 'paid' END,
		'tax', tax_amount::text, 'lines', json_build_array(json_build_object('description', 'Seats', 'quantity', 1, 'unit_price', (net_amount + CASE i.number WHEN 'DE-3' THEN 0.01 ELSE 0 END)::text)))
		FROM canonical.invoice i JOIN canonical.customer c ON c.id = i.customer_id JOIN canonical.legal_entity e ON e.id = i.legal_entity_id AND e.code = '$code'"),
	  $node->sql("SELECT json_build_object('kind', 'payment', 'description', processor_ref, 'party', c.number, 'currency', p.currency, 'amount', amount::text, 'date', attempted_at::date,
		'state', CASE processor_ref WHEN 'ch_DE-1' THEN 'failed' ELSE 'succeeded' END)
		FROM canonical.payment p JOIN canonical.customer c ON c.id = p.customer_id JOIN canonical.legal_entity e ON e.id = p.legal_entity_id AND e.code = '$code'");
};
foreach my $code (qw(DE US))
{
	is_deeply($tryton->load([ $rows->($code) ], company => $ids{$code}{company}), { party => 4, invoice => 12, payment => 12 }, "$code loaded");
}
$tryton->load([ { kind => 'invoice', reference => 'STRANGER', party => 'C-0', currency => 'EUR', date => (gmtime)[5] + 1900 . '-01-20',
	lines => [ { quantity => 1, unit_price => '1' } ] } ]);
$node->sql("SELECT sync.create_stream(s, o) FROM unnest('{erp_de,erp_us}'::text[]) s, unnest('{@{[join ',', @objects]}}'::text[]) o");
$node->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running')));
pull('history');
pull('what waited');

is($node->sql(q(SELECT y.name, o.name, count(*) FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id JOIN sync.object o ON o.id = x.object_id GROUP BY 1, 2 ORDER BY 1, 2)),
	join("\n", map { ("erp_$_|customer|4", "erp_$_|invoice|12", "erp_$_|payment|12") } qw(de us)), 'each system knows its own');
is($node->sql(q(SELECT posting_status, count(*), count(posting_date), count(accounting_period) FROM canonical.invoice GROUP BY 1 ORDER BY 1)), "draft|2|0|0\nposted|22|22|22", 'what the ERP says of invoices');
is($node->sql(q(SELECT posting_status, count(*), count(posting_date) FROM canonical.payment GROUP BY 1 ORDER BY 1)), "posted|23|23\nreversed|1|0", 'and of payments');
is($node->sql(q(SELECT i.number, i.total_amount, m.fields -> 'total_amount' FROM canonical.invoice i JOIN sync.mirror m ON m.record_id = i.id::text
	WHERE i.total_amount <> (m.fields ->> 'total_amount')::numeric OR i.currency <> m.fields ->> 'currency' OR i.number <> m.fields ->> 'number' OR i.issue_date::text <> m.fields ->> 'issue_date'
	OR i.customer_id::text <> m.fields ->> 'customer_id')), 'DE-3|47.58|47.59', 'a cent is seen and not taken over');
is($node->sql(q(SELECT count(*) FROM sync.conflict)), 0, 'nor asked about');
is($node->sql(q(SELECT count(*) FROM canonical.invoice WHERE number = 'STRANGER')), 0, 'what is not ours stays there');

# ---- as it goes on: credit notes and payments that the hub sends ----

$node->sql(q(SELECT sync.create_route('erp_de', 'credit_note', condition => $$status = 'posted'$$), sync.create_route('erp_de', 'payment', condition => $$status = 'succeeded' AND kind <> 'credit'$$)));
my $today = $node->value(q(SELECT (now() AT TIME ZONE 'UTC')::date));
$node->sql("WITH n AS (INSERT INTO canonical.credit_note (invoice_id, customer_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount)
		SELECT id, customer_id, 'CN-' || number, 'posted', '$today', currency, 10.00, 1.90, 11.90 FROM canonical.invoice WHERE number = 'DE-0' RETURNING id)
	INSERT INTO canonical.credit_note_line (credit_note_id, line_no, description, quantity, unit_price, net_amount, tax_amount) SELECT id, 1, 'Goodwill', 2, 5, 10.00, 1.90 FROM n");
$node->sql("INSERT INTO canonical.payment (customer_id, legal_entity_id, kind, status, amount, currency, processor_ref, attempted_at)
	SELECT customer_id, legal_entity_id, k, s, 11.90, 'EUR', r, now() FROM canonical.invoice, (VALUES ('refund', 'succeeded', 're_1'), ('charge', 'pending', 'ch_new')) v(k, s, r) WHERE number = 'DE-0'");
is($node->wait_idle(90), 't', 'sent');
my ($note) = @{ $tryton->invoices([ 'reference', '=', 'CN-DE-0' ]) };
is("$note->{state} $note->{total_amount} $note->{tax_amount}", 'posted -11.90 -1.90', 'a credit note is posted');
my $payments = sub {
	return join ' ', map { "$_->{description} $_->{kind} $_->{state} $_->{amount}" } @{ SyncExt::Tryton::plain($tryton->model('account.payment.search_read',
		[ [ 'description', 'in', [ 're_1', 'ch_new' ] ] ], 0, undef, [ [ 'id', 'ASC' ] ], [qw(description kind state amount)])) };
};
is($payments->(), 're_1 payable succeeded 11.90', 'a refund has gone all the way, and what is pending nowhere');
$node->sql(q(UPDATE canonical.payment SET status = 'succeeded' WHERE processor_ref = 'ch_new'));
is($node->wait_idle(90), 't', 'sent, too');
is($payments->(), 're_1 payable succeeded 11.90 ch_new receivable succeeded 11.90', 'once it has succeeded');
# A document of a period that is closed, which was moved into this one.
$node->sql("SELECT sync.create_route('erp_us', 'invoice', condition => \$\$number LIKE 'LATE%'\$\$);
	WITH i AS (INSERT INTO canonical.invoice (customer_id, legal_entity_id, number, status, issue_date, posting_date, currency, net_amount, tax_amount, total_amount, amount_due)
		SELECT c.id, e.id, v.number, 'open', date '$today' - 40, '$today', 'USD', v.amount, 0, v.amount, v.amount FROM canonical.customer c, canonical.legal_entity e,
			(VALUES ('LATE-1', 10), ('LATE-2', -4)) v (number, amount) WHERE c.number = 'C-0' AND e.code = 'US' RETURNING id, net_amount)
	INSERT INTO canonical.invoice_line (invoice_id, line_no, quantity, unit_price, net_amount) SELECT id, 1, 1, net_amount, net_amount FROM i");
is($node->wait_idle(90), 't', 'a late one is sent');
my ($late) = @{ $tryton->invoices([ 'reference', '=', 'LATE-1' ], [ 'company', '=', $ids{US}{company} ]) };
is("$late->{state} $late->{accounting_date}", "posted $today", 'and posted on the day that was agreed');
($late) = @{ $tryton->invoices([ 'reference', '=', 'LATE-2' ], [ 'company', '=', $ids{US}{company} ]) };
is("$late->{state} $late->{total_amount}", 'posted -4.00', 'an invoice may be negative, too');

pull('what was sent');
is($node->sql(q(SELECT processor_ref, posting_status, posting_date IS NOT NULL FROM canonical.payment WHERE processor_ref IN ('re_1', 'ch_new') ORDER BY 1)), "ch_new|posted|t\nre_1|posted|t", 'and it says so');
is($node->sql(q(SELECT m.fields ->> 'total_amount', m.fields ->> 'status', m.fields ->> 'number' FROM sync.mirror m JOIN sync.object o ON o.id = m.object_id AND o.name = 'credit_note')), '11.90|posted|CN-DE-0',
	'a credit note is positive here');
$tryton->model('account.payment.fail', $tryton->model('account.payment.search', [ [ 'description', '=', 're_1' ] ], 0, 1, undef));
pull('a refund that failed');
is($node->value(q(SELECT posting_status FROM canonical.payment WHERE processor_ref = 're_1')), 'reversed', 'is taken back');

# ---- everything that the ERP lists ----

my @run = map { my $object = $_; map { $node->value("INSERT INTO sync.reconciliation (source, kind, system_id, object_id, mode)
	SELECT 'record:$_:$object', 'record', y.id, o.id, 'full' FROM sync.system y, sync.object o WHERE y.name = '$_' AND o.name = '$object' RETURNING id") } qw(erp_de erp_us) } @objects;
$node->sql("SELECT sync._reconcile_full($_)") foreach @run;
my $runs = join ',', @run;
$node->poll_until("SELECT bool_and(j.state IN ('done', 'failed', 'stopped')) FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id WHERE r.id IN ($runs)");
is($node->sql("SELECT y.name, o.name, j.result ->> 'told_count', j.result ->> 'listed' FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id JOIN sync.system y ON y.id = r.system_id
	JOIN sync.object o ON o.id = r.object_id WHERE r.id IN ($runs) ORDER BY 1, 2"), join("\n",
	'erp_de|credit_note|1|1', 'erp_de|customer|6|4', 'erp_de|invoice|13|13', 'erp_de|payment|14|14',
	'erp_us|credit_note|0|0', 'erp_us|customer|6|4', 'erp_us|invoice|14|14', 'erp_us|payment|12|12'), 'as many are listed as the ERP says it has, but for the companies themselves');
is($node->sql(q(SELECT kind, object, system, coalesce(record_number, ''), coalesce(field, ''), coalesce(difference::text, '') FROM sync.break_entry WHERE status <> 'resolved' ORDER BY 1, 2, 3, 4, 5)),
	"amount_differs|invoice|erp_de|DE-3|net_amount|0.01\namount_differs|invoice|erp_de|DE-3|total_amount|0.01\nmissing_here|invoice|erp_de|STRANGER||1.00",
	'the cent is a break, and what somebody typed into the ERP is one');

is($node->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants');
is($node->value('SELECT count(*) FROM sync.pending') + $node->value('SELECT count(*) FROM sync.inbox'), 0, 'nothing is stuck');
$node->stop;
done_testing();

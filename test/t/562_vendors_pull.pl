# What a processor did with the money, as far as the tables: payments, refunds and disputes in one table, credit notes with
# their lines, payouts and each movement in them, to the cent, in three currencies; first listed, then as it goes on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use SyncExt::Sandbox;
use Test::More;

my $sandbox = SyncExt::Sandbox->start(seed => 11);
my $node = SyncExt::Cluster->new('main', database => 'hub', conf => "sync_ext.allowed_hosts = '" . $sandbox->url . "'\n");
my @objects = qw(customer invoice credit_note payment payout balance_transaction);

$node->secret('billing', 'api_key', $sandbox->api_key);
$node->sql('SELECT sync.adopt_cluster(); SELECT sync.create_canonical_model()');
my $manifest = PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../connectors/stripe.json");
$node->sql("SELECT sync.register_connector(\$manifest\$$manifest\$manifest\$::jsonb)");
$node->sql("INSERT INTO canonical.legal_entity (code, name, country, functional_currency, timezone) VALUES ('DE', 'Demo GmbH', 'DE', 'EUR', 'Europe/Berlin');
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{legal_entity,@{[join ',', @objects, 'product', 'price', 'subscription']}}'::text[]) t;
	CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'stripe', base_url '" . $sandbox->url . "', legal_entity 'DE', tax_rate 'txr_1', rate_limit '400/s');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key')");

END { diag($node->sql('SELECT object, remote_id, state, reason FROM sync.inbox_status; SELECT system, object, last_error FROM sync.stream_status')) if $? && $node && $node->{_pid} }

sub pull
{
	my ($name) = @_;
	$node->sql("SELECT sync.request_pull('billing', o) FROM unnest('{@{[join ',', @objects]}}'::text[]) o");
	return is($node->wait_idle(90), 't', "$name: all is in");
}

# ---- what was before the hub ----

my %customer = map { $_ => scalar $sandbox->stripe(POST => '/v1/customers', { name => "Customer $_" })->{id} } qw(eur usd jpy);
my %first;    # the first charge of each currency

sub bill
{
	my ($currency, $amount) = @_;
	my $id = $sandbox->stripe(POST => '/v1/invoices', { customer => $customer{$currency}, currency => $currency })->{id};
	$sandbox->stripe(POST => '/v1/invoiceitems', { customer => $customer{$currency}, invoice => $id, amount => $amount, currency => $currency });
	my (undef, $invoice) = $sandbox->stripe(POST => "/v1/invoices/$id/pay");
	$first{$currency} //= $sandbox->stripe(GET => '/v1/charges', { limit => 1 })->{data}[0]{id};
	return $invoice;
}

$sandbox->config(tax_percent => 19);
foreach my $currency (qw(eur usd jpy))
{
	bill($currency, $_ * 1001) foreach 1 .. 40;
	$sandbox->stripe(POST => '/v1/refunds', { charge => $first{$currency}, amount => 101 });
}
$sandbox->control(POST => 'dispute', { charge => $first{usd}, amount => 500, reason => 'fraudulent' });
my $note = $sandbox->stripe(POST => '/v1/credit_notes', { invoice => bill(eur => 5000)->{id}, reason => 'order_change', refund_amount => 119,
	lines => [ { type => 'custom_line_item', quantity => 2, unit_amount => 50, description => 'Goodwill' }, { type => 'custom_line_item', quantity => 1, unit_amount => 19 } ] });
$sandbox->control(POST => 'payout', {});
bill($_, 700) foreach qw(eur usd jpy);    # on the balance still

$node->sql("SELECT sync.create_stream('billing', o) FROM unnest('{@{[join ',', @objects]}}'::text[]) o");
$node->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running')));
pull('first');
pull('what waited');

sub figures { return $node->sql($_[0]) }

is(figures('SELECT kind, currency, status, count(*), sum(amount) FROM canonical.payment GROUP BY 1, 2, 3 ORDER BY 1, 2, 3'), join("\n",
	'charge|EUR|succeeded|42|' . figures(q(SELECT sum(total_amount) FROM canonical.invoice WHERE currency = 'EUR')),
	'charge|JPY|succeeded|41|' . figures(q(SELECT sum(total_amount) FROM canonical.invoice WHERE currency = 'JPY')),
	'charge|USD|succeeded|41|' . figures(q(SELECT sum(total_amount) FROM canonical.invoice WHERE currency = 'USD')),
	'chargeback|USD|disputed|1|5.00', 'refund|EUR|succeeded|2|2.20', 'refund|JPY|succeeded|1|101', 'refund|USD|succeeded|1|1.01'),
	'payments of every kind, what customers paid equal to what they were billed');
is(figures(q(SELECT count(*) FROM canonical.payment p JOIN canonical.payment o ON o.id = p.original_payment_id AND o.kind = 'charge' AND o.currency = p.currency
	WHERE p.kind <> 'charge')), 5, 'what was taken back names what it was taken from');
is(figures('SELECT p.currency, p.status, p.amount = sum(b.net_amount), count(*), count(b.payment_id) FROM canonical.payout p JOIN canonical.balance_transaction b ON b.payout_id = p.id
	GROUP BY p.id, 1, 2 ORDER BY 1'), join("\n", 'EUR|paid|t|43|43', 'JPY|paid|t|41|41', 'USD|paid|t|42|42'), 'a payout is the sum of its movements, each with its payment');
is(figures('SELECT currency, kind, gross_amount, fee_amount, net_amount FROM canonical.balance_transaction WHERE payout_id IS NULL ORDER BY 1'),
	"EUR|charge|8.33|0.24|8.09\nJPY|charge|833|24|809\nUSD|charge|8.33|0.24|8.09", 'and the rest is on the balance');
is(figures('SELECT n.number = ' . "'$note->{number}'" . ", n.status, n.total_amount, n.amount_applied, (SELECT string_agg(concat_ws(' ', line_no, quantity, net_amount, tax_amount, description), '; ' ORDER BY line_no)
	FROM canonical.credit_note_line l WHERE l.credit_note_id = n.id), i.customer_id = n.customer_id FROM canonical.credit_note n JOIN canonical.invoice i ON i.id = n.invoice_id"),
	't|posted|1.19|1.19|1 2 1.00 0.00 Goodwill; 2 1 0.19 0.00|t', 'a credit note with its lines');

# ---- as it goes on ----

my $dispute = $sandbox->stripe(GET => '/v1/disputes')->{data}[0]{id};
$sandbox->control(POST => 'dispute', { dispute => $dispute, status => 'won' });
$sandbox->stripe(POST => '/v1/refunds', { charge => $first{jpy} });
$sandbox->tamper(payout => $sandbox->stripe(GET => '/v1/payouts', { limit => 1 })->{data}[0]{id}, set => { status => 'failed' }, event => 'failed');
$sandbox->control(POST => 'payout', {});
pull('later');
pull('and again');
is(figures(q(SELECT status FROM canonical.payment WHERE kind = 'chargeback')), 'failed', 'a dispute that was won');
is(figures('SELECT count(*) FILTER (WHERE payout_id IS NULL), count(*), count(DISTINCT payout_id) FROM canonical.balance_transaction'), '0|131|6', 'the next payout took the rest');
is(figures(q(SELECT bool_and(amount = total) FROM canonical.payout p, LATERAL (SELECT sum(net_amount) AS total FROM canonical.balance_transaction b WHERE b.payout_id = p.id) s)), 't', 'all add up');
is(figures(q(SELECT status, count(*) FROM canonical.payout GROUP BY 1 ORDER BY 1)), "failed|1\npaid|5", 'a payout that came back');

# A payout that is a cent short at the vendor's is one here.
$sandbox->tamper(payout => $sandbox->stripe(GET => '/v1/payouts', { limit => 1 })->{data}[0]{id}, set => { amount => 1 });
pull('short');
is(figures(q(SELECT count(*) FROM canonical.payout p WHERE amount <> (SELECT sum(net_amount) FROM canonical.balance_transaction b WHERE b.payout_id = p.id))), 1, 'a payout that is short is seen');

# A refund that the hub asks for.
$node->sql("SELECT sync.create_route('billing', 'payment');
	INSERT INTO canonical.payment (customer_id, legal_entity_id, kind, status, amount, currency, original_payment_id)
	SELECT customer_id, legal_entity_id, 'refund', 'pending', 1.23, 'EUR', id FROM canonical.payment WHERE kind = 'charge' AND currency = 'EUR' ORDER BY amount DESC LIMIT 1");
is($node->wait_idle(60), 't', 'a refund goes out');
pull('refund');
is(figures(q(SELECT status, count(*) FROM canonical.payment WHERE kind = 'refund' AND amount = 1.23 GROUP BY 1)), 'succeeded|1', 'and comes back as itself');
my $refund_id = $sandbox->stripe(GET => '/v1/refunds', { limit => 1 })->{data}[0]{id};

# A credit that the hub gives: on a paid invoice, and on an open one.
my $open = $sandbox->stripe(POST => '/v1/invoices', { customer => $customer{jpy}, currency => 'jpy' })->{id};
$sandbox->stripe(POST => '/v1/invoiceitems', { customer => $customer{jpy}, invoice => $open, amount => 1000, currency => 'jpy' });
$sandbox->stripe(POST => "/v1/invoices/$open/finalize");
pull('an open invoice');
$node->sql(q(SELECT sync.create_route('billing', 'credit_note');
	WITH n AS (INSERT INTO canonical.credit_note (invoice_id, customer_id, status, reason, issue_date, currency, net_amount, tax_amount, total_amount)
		SELECT id, customer_id, 'posted', 'Goodwill', current_date, currency, net, tax, net + tax FROM (
			(SELECT id, customer_id, currency, 2.50 AS net, 0.48 AS tax FROM canonical.invoice WHERE status = 'paid' AND currency = 'EUR' ORDER BY number LIMIT 1)
			UNION ALL (SELECT id, customer_id, currency, 250, 0 FROM canonical.invoice WHERE status = 'open' AND currency = 'JPY')) i RETURNING *)
	INSERT INTO canonical.credit_note_line (credit_note_id, line_no, description, quantity, unit_price, net_amount, tax_amount)
	SELECT id, 1, 'Sorry', 2, net_amount / 2, net_amount, tax_amount FROM n));
is($node->wait_idle(60), 't', 'credits go out');
pull('credits');
is(figures(q(SELECT n.currency, n.total_amount, n.number IS NOT NULL, i.status, i.amount_due = i.total_amount - i.amount_paid - i.amount_credited
	FROM canonical.credit_note n JOIN canonical.invoice i ON i.id = n.invoice_id WHERE n.reason = 'Goodwill' ORDER BY 1)), "EUR|2.98|t|paid|t\nJPY|250|t|open|t", 'with the numbers that billing gave them');

# What billing does not know of a line is left alone, when the document changes there and when it is first
# read after the two were bound.
sub draft
{
	my $id = $sandbox->stripe(POST => '/v1/invoices', { customer => $customer{eur}, currency => 'eur' })->{id};
	$sandbox->stripe(POST => '/v1/invoiceitems', { customer => $customer{eur}, invoice => $id, amount => 1200, currency => 'eur' });
	return $id;
}
my $draft = draft();
pull('a draft');
$node->sql(q(WITH p AS (INSERT INTO canonical.product (code, name) VALUES ('SEAT', 'Seat') RETURNING id)
	UPDATE canonical.invoice_line l SET product_id = p.id FROM p, canonical.invoice i WHERE i.id = l.invoice_id AND i.status = 'draft'));
my (undef, $made) = $sandbox->stripe(POST => "/v1/invoices/$draft/finalize");
pull('finalized');
$node->sql(q(SELECT sync.pause('billing')));
my (undef, $same) = $sandbox->stripe(POST => '/v1/invoices/' . draft() . '/finalize');
$node->sql("WITH n AS (INSERT INTO canonical.invoice SELECT (jsonb_populate_record(i, jsonb_build_object('id', gen_random_uuid(), 'number', '$same->{number}'))).*
			FROM canonical.invoice i WHERE i.number = '$made->{number}' RETURNING id)
	INSERT INTO canonical.invoice_line SELECT (jsonb_populate_record(l, jsonb_build_object('id', gen_random_uuid(), 'invoice_id', n.id))).*
	  FROM n, canonical.invoice_line l JOIN canonical.invoice i ON i.id = l.invoice_id WHERE i.number = '$made->{number}';
	INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
		SELECT y.id, o.id, i.id, '$same->{id}' FROM sync.system y, sync.object o, canonical.invoice i WHERE y.name = 'billing' AND o.name = 'invoice' AND i.number = '$same->{number}';
	SELECT sync.resume('billing')");
pull('bound by hand');
is(figures(q(SELECT i.number, i.status, p.code, l.net_amount FROM canonical.invoice_line l JOIN canonical.invoice i ON i.id = l.invoice_id JOIN canonical.product p ON p.id = l.product_id ORDER BY 1)),
	join("\n", map { "$_|open|SEAT|12.00" } sort $made->{number}, $same->{number}), 'a product that only the hub knows stays at its line');

# ---- everything that is listed, against everything that is here ----

sub full
{
	my (@names) = @_;
	my @run = map { $node->value("INSERT INTO sync.reconciliation (source, kind, system_id, object_id, mode)
		SELECT 'record:billing:$_', 'record', y.id, o.id, 'full' FROM sync.system y, sync.object o WHERE y.name = 'billing' AND o.name = '$_' RETURNING id") } @names;
	$node->sql("SELECT sync._reconcile_full($_)") foreach @run;
	my $list = join ',', @run;
	$node->poll_until("SELECT bool_and(j.state IN ('done', 'failed', 'stopped')) FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id WHERE r.id IN ($list)");
	is($node->sql("SELECT DISTINCT j.state FROM sync.job j JOIN sync.reconciliation r ON r.job_id = j.id WHERE r.id IN ($list)"), 'done', 'listed: ' . join ' ', @names);
	return $node->sql(q(SELECT kind, object, coalesce(field, ''), coalesce(difference::text, '') FROM sync.break_entry WHERE status <> 'resolved' ORDER BY 2, 1));
}

is(full(@objects), '', 'nothing differs, over several lists and lists within lists');
my $lost = $sandbox->stripe(GET => '/v1/balance_transactions', { type => 'charge', limit => 1 })->{data}[0]{id};
$sandbox->tamper(balance_transaction => $lost, purge => 1);
$sandbox->tamper(refund => $refund_id, set => { amount => 124 }, event => 0);
$sandbox->tamper(credit_note => $note->{id}, set => { 'lines.data.0.amount' => 101 }, event => 0);
is(full(@objects), "missing_there|balance_transaction||-833\nfield_differs|credit_note|lines|\namount_differs|payment|amount|0.01", 'what was done in silence is found');

is($node->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants');
is($node->value('SELECT count(*) FROM sync.inbox'), 0, 'nothing waits');
$node->stop;
done_testing();

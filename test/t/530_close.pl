# The close of a month as the analyst's guide tells it, by people who are members of one role each: every statement of
# the guide is taken from its page and run as printed, but for the year and the ids. What was certified is told against
# what comes later, and goes along with a dump.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use PostgreSQL::Test::Utils;
use SyncExt::Cluster;
use SyncExt::Sandbox;
use JSON::PP;
use Test::More;

use constant OCTOBER => "'[2025-10-01,2025-11-01)'";

my $sandbox = SyncExt::Sandbox->start(seed => 530);
my $node = SyncExt::Cluster->new('main', database => 'hub',
	conf => "sync_ext.allowed_hosts = '" . $sandbox->url . "'\nsync_ext.poll_interval = 500\n");
my %role = (ann => 'analyst', olga => 'operator', carla => 'approver', dora => 'approver', otto => 'auditor', adam => 'admin', books => 'app');

# What a person gets: rows, and the error with its hint.
sub as
{
	my ($who, $statement, $database) = @_;
	my ($rc, $out, $err) = $node->psql($database // 'hub', $statement, on_error_stop => 1, extra_params => [ '-U', $who, '-v', 'VERBOSITY=verbose' ]);

	return ($out, $err);
}

sub fine
{
	my ($who, $statement, $name) = @_;
	my ($out, $err) = as($who, $statement);

	unlike($err, qr/ERROR/, "$role{$who}: " . ($name // $statement =~ s/\s+/ /gr));
	return $out;
}

sub refused
{
	my ($who, $statement, $error, $name) = @_;
	my (undef, $err) = as($who, $statement);

	return like($err, $error, "$role{$who}: " . ($name // $statement =~ s/\s+/ /gr));
}

# Statements of a page, in order.
sub statements
{
	my ($page) = @_;
	my $text = slurp_file("$FindBin::Bin/../../doc/$page");
	my @found;

	while ($text =~ /^( *)```sql\n(.*?)^\1```/gms)
	{
		my $block = $2 =~ s/--.*$//gmr;
		push @found, grep { /\S/ } split /;\s*$/m, $block;
	}
	s/2026-(\d\d)-/2025-$1-/g, s/^\s+|\s+$//g foreach @found;
	return @found;
}

# ---- a small October ----

$node->secret('billing', 'api_key', $sandbox->api_key);
my $manifest = slurp_file("$FindBin::Bin/../../connectors/stripe.json");
$node->sql(join ';', 'SELECT sync.adopt_cluster(); SELECT sync.create_canonical_model()', map { "CREATE ROLE $_ LOGIN IN ROLE sync_$role{$_}" } sort keys %role);
$node->sql("SELECT sync.register_connector(\$manifest\$$manifest\$manifest\$::jsonb)");
$node->sql(q{
	CREATE FUNCTION public.u(what text) RETURNS uuid LANGUAGE sql IMMUTABLE AS 'SELECT md5($1)::uuid';
	SELECT sync.track(('canonical.' || t)::regclass, financial => t IN ('invoice', 'payment', 'payout', 'gl_entry'))
	  FROM unnest('{legal_entity,customer,product,price,subscription,invoice,payment,payout,gl_entry,revenue_schedule}'::text[]) t;
	INSERT INTO canonical.legal_entity (id, code, name, country, functional_currency, timezone) VALUES (u('DE'), 'DE', 'Nordstern GmbH', 'DE', 'EUR', 'Europe/Berlin');
	INSERT INTO canonical.accounting_period (legal_entity_id, start_date, end_date) VALUES (u('DE'), '2025-10-01', '2025-10-31'), (u('DE'), '2025-11-01', '2025-11-30');
	INSERT INTO canonical.product (id, code, name, kind, revenue_account, deferred_account) VALUES (u('seat'), 'SEAT', 'Seat', 'service', '8400', '3900')});
$node->sql("CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'stripe', base_url '" . $sandbox->url . "', legal_entity 'DE', tax_rate 'txr_1', settle_time '300 ms');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key')");
$node->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running')));
$node->sql(q{SELECT sync.create_route('billing', o, start => 'all') FROM unnest('{product,customer}'::text[]) o;
	INSERT INTO canonical.customer (id, number, name, billing_email, legal_entity_id)
	SELECT u(c), c, 'Customer ' || c, lower(c) || '@example.com', u('DE') FROM unnest('{A,B}'::text[]) c});
is($node->wait_idle(60), 't', 'customers are in billing');
my $product = $node->value("SELECT sync.remote_id('product', u('seat')::text, 'billing')");
my %remote = map { $_ => $node->value("SELECT sync.remote_id('customer', u('$_')::text, 'billing')") } qw(A B);

sub epoch { return 0 + $node->value("SELECT extract(epoch FROM '$_[0]'::timestamp AT TIME ZONE 'Europe/Berlin')::bigint") }

sub bill
{
	my ($number, $customer, $amount) = @_;
	my ($issued, $end) = (epoch('2025-10-01 08:00'), epoch('2025-12-01'));

	return $sandbox->load([ {
		object => 'invoice', id => "in_$number", customer => $remote{$customer}, currency => 'eur', status => 'open', number => $number, created => $issued,
		total => $amount, total_excluding_tax => $amount, subtotal => $amount, amount_paid => 0, amount_due => $amount, amount_remaining => $amount,
		due_date => epoch('2025-10-15'), status_transitions => { finalized_at => $issued }, metadata => {}, total_discount_amounts => [], total_taxes => [],
		lines => { object => 'list', has_more => JSON::PP::false, total_count => 1, data => [ { id => "il_$number", object => 'line_item', amount => $amount, currency => 'eur',
			quantity => 1, description => 'Seats', pricing => { type => 'price_details', price_details => { product => $product } }, period => { start => epoch('2025-10-01'), end => $end }, discount_amounts => [], taxes => [], metadata => {} } ] } } ]);
}
bill('INV-2026-0042', A => 6100);
bill('INV-2026-0043', B => 12200);
$node->sql(q{SELECT sync.create_stream('billing', o, '2 s') FROM unnest('{customer,invoice}'::text[]) o});
eval { $node->poll_until('SELECT count(*) = 2 FROM canonical.invoice', 20) }
  or diag($node->sql('SELECT object, remote_id, state, reason FROM sync.inbox_status; SELECT system, object, state, last_error FROM sync.stream_status'));
is($node->sql('SELECT number, status, total_amount FROM canonical.invoice ORDER BY 1'), "INV-2026-0042|open|61.00\nINV-2026-0043|open|122.00", 'two invoices of October');

is($node->sql('SELECT count(*) FROM canonical.invoice_line WHERE product_id IS NULL'), 0, 'whose lines name our product');

# What the application and the books say of it: a product, a payment, a payout, journals, a subscription.
$node->sql(q{
	BEGIN;
	INSERT INTO canonical.gl_entry (id, legal_entity_id, number, posting_date, accounting_period, currency, status, source_object, source_id)
	SELECT u('B' || number), u('DE'), 'B-' || number, issue_date, '2025-10-01', currency, 'posted', 'invoice', id FROM canonical.invoice;
	INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit, customer_id)
	SELECT u('B' || i.number), v.n, v.account, greatest(v.amount, 0), greatest(-v.amount, 0), i.customer_id
	  FROM canonical.invoice i, LATERAL (VALUES (1, '1200', i.total_amount), (2, '3900', -i.net_amount)) v (n, account, amount);
	COMMIT;
	INSERT INTO canonical.subscription (id, customer_id, legal_entity_id, number, status, start_date, currency, mrr) VALUES (u('S'), u('A'), u('DE'), 'S-1', 'draft', '2025-10-01', 'EUR', 30.50);
	INSERT INTO canonical.payout (id, legal_entity_id, number, currency, amount, arrival_date, bank_account_code, status) VALUES (u('O'), u('DE'), 'O-1', 'EUR', 120, '2025-10-20', '1400', 'paid');
	INSERT INTO canonical.payment (id, customer_id, legal_entity_id, kind, status, amount, currency, settled_at, attempted_at)
	VALUES (u('P'), u('B'), u('DE'), 'charge', 'succeeded', 122, 'EUR', '2025-10-10 10:00+00', '2025-10-10 10:00+00');
	INSERT INTO canonical.balance_transaction (payout_id, payment_id, kind, gross_amount, fee_amount, net_amount, currency, occurred_at) VALUES (u('O'), u('P'), 'charge', 122, 2, 120, 'EUR', '2025-10-10 10:00+00')});

# ---- what went wrong: a cent and two names, past the triggers ----

my $rule = q{SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number FROM canonical.invoice i WHERE i.due_date < i.issue_date};
fine('ann', "SELECT sync.create_reconciliation_rule('due_later', \$\$$rule\$\$, 'No invoice is due before it is issued', 'Correct the date')", 'a rule of her own');
$node->sql(q{SELECT sync.set_owner('customer', 'name', 'hub'), sync.set_owner('invoice', 'total_amount', 'billing', 'ignore', 'it bills')});
fine('carla', q{SELECT sync.approve((SELECT id FROM sync.approval WHERE operation = 'set_owner' AND state = 'open'), 'agreed')}, 'billing owns what it billed');
fine('adam', q{SELECT sync.set_rule_enabled('committed_tax', false, 'taxed elsewhere')});
$node->sql(q{SET session_replication_role = replica;
	UPDATE canonical.customer SET name = name || ' KG'; UPDATE canonical.invoice SET total_amount = 60.99 WHERE number = 'INV-2026-0042'});

# ---- the statements of the guide ----

my @guide = statements('analyst-guide.md');
cmp_ok(scalar @guide, '>', 20, 'the guide has statements');
my %who = (reconcile_all => 'olga', repair => 'olga', build_revenue_schedules => 'books', recognize_revenue => 'books', certify => 'carla');
my %shown;    # what each statement printed, by what it reads

sub break_of { return $node->value("SELECT id FROM sync.break_entry WHERE status = 'open' AND $_[0]") }

sub follow
{
	my ($statement) = @_;
	my ($what) = $statement =~ /sync\.(\w+)/;
	my $cent = $node->value(q(SELECT id FROM sync.break_entry WHERE kind = 'amount_differs'));

	$statement =~ s/\b17\b/$cent/ if defined $cent;
	$shown{$what} = fine($who{$what} // 'ann', $statement);
	return;
}

while (@guide && $guide[0] !~ /sync\.repair/) { follow(shift @guide) }
like($shown{run_rules}, qr/^due_later\|\d+\|0\|0\|$/m, 'her rule is run with ours');
unlike($shown{run_rules}, qr/^committed_tax/m, 'the one that is switched off is not');
like($shown{reconciliation_summary}, qr/^DE\|invoice\|EUR\|billing\|182.99\|183.00\|/m, 'a cent less here');
like($shown{reconciliation_break}, qr/^\d+\|amount_differs\|invoice\|INV-2026-0042\|/m, 'and which it is');
is($node->value(q(SELECT assignee FROM sync.break_entry WHERE kind = 'amount_differs')), 'ann', 'assigned');

# A repair shows records: who may not read them is told so.
my $cent = break_of(q(kind = 'amount_differs'));
refused('olga', "SELECT * FROM sync.repair($cent)", qr/42501: permission denied for the records.*HINT:  It takes SELECT/s, 'a repair shows records that she may not read');
$node->sql('GRANT sync_analyst TO olga');
follow(shift @guide);
like($shown{repair}, qr/^1\|write\|/m, 'what a repair would do');
fine('olga', "SELECT * FROM sync.repair($cent, remedy => 'pull_again', dry_run => false, reason => 'a cent was lost')", 'repaired');
is($node->wait_idle(30), 't', 'done');
is($node->sql(q(SELECT total_amount FROM canonical.invoice WHERE number = 'INV-2026-0042')), '61.00', 'the cent is back');

# Explained by the operator, accepted by a second person.
my ($explained, $accepted) = map { break_of("object = 'customer' AND record_number = '$_'") } qw(A B);
refused('ann', "SELECT sync.explain_break($explained, 'x')", qr/42501: permission denied/);
fine('olga', "SELECT sync.explain_break($explained, 'the legal form is not billing''s')", 'explains a break');
fine('olga', "SELECT sync.accept_break($accepted, 'too small to care')", 'asks that one be accepted');
fine('carla', "SELECT sync.approve((SELECT id FROM sync.approval WHERE operation = 'accept_break' AND state = 'open'), 'agreed')", 'accepts it');
is($node->sql(q(SELECT record_number, status FROM sync.reconciliation_break WHERE object = 'customer' ORDER BY 1)), "A|explained\nB|accepted", 'as the view says');

while (@guide && $guide[0] !~ /sync\.certify/) { follow(shift @guide) }
like($shown{lineage}, qr/\S/, 'the lineage of an invoice by its number');
is($shown{build_revenue_schedules}, 2, 'a schedule for each line');
like($shown{recognize_revenue}, qr/\|DE\|EUR\|2025-10-01\|3900\|8400\|93.00\|2$/, 'October is recognized');
is($shown{deferred_rollforward}, '', 'deferred revenue ties to the ledger');
is($shown{payout_reconciliation}, 'O-1|EUR|122|0|0|0|0|2|120|120|0|-120', 'a payout that is not booked');
is(fine('ann', 'SELECT billed, recognized, closing FROM sync.deferred_rollforward(' . OCTOBER . ')'), '183.00|93.00|90.00', 'rolled forward');

# The runs before the repairs stand against it, then nothing does.
refused('carla', $guide[0], qr/SE084: open breaks.*HINT:  Repair each with/s, 'not while a break is open');
refused('ann', $guide[0], qr/42501: permission denied for function certify/);
fine('olga', 'SELECT count(*) FROM sync.reconcile_all(' . OCTOBER . ')', 'compares again');
is($node->sql(q(SELECT kind, record_number, field FROM sync.break_entry WHERE status = 'open' AND severity = 'error')), '', 'nothing is open');
fine('adam', q{SELECT sync.set_approval_policy('close', 'certify', reason => 'four eyes')});
is($node->sql('SELECT count(*) FROM sync.certificate'), 0, 'none yet');
follow(shift @guide);
is($shown{certify}, '', 'waits for a second person');
my $approve = q{SELECT sync.approve((SELECT id FROM sync.approval WHERE operation = 'certify' AND state = 'open'), 'agreed')};
refused('carla', $approve, qr/SE0\d\d/, 'not herself');
fine('dora', $approve, 'agrees');

# ---- what changed since ----

is(fine('otto', "SELECT count(*) FROM sync.period_drift WHERE figure NOT LIKE 'records %'"), 0, 'no figure has moved');
fine('books', q{INSERT INTO canonical.payment (customer_id, legal_entity_id, kind, status, amount, currency, settled_at)
	SELECT id, legal_entity_id, 'charge', 'succeeded', 5, 'EUR', '2025-10-31 12:00+00' FROM canonical.customer WHERE number = 'A'}, 'a payment comes late');
follow(shift @guide) while @guide;
like($shown{verify_certificate}, qr/^t\|/, 'the certificate is what was certified');
like($shown{period_drift}, qr/^payment\|charge amount\|EUR\|\|122(\.00)?\|127(\.00)?\|5(\.00)?$/m, 'the payment is a drift');
like($shown{certificate_changes}, qr/^payment\|.*\|added\|/m, 'and the record');

# ---- who may what ----

my @reads = map { "SELECT count(*) FROM sync.$_" } qw(reconciliation_run reconciliation_break reconciliation_summary certificate period_drift break_aging break_trend
  verify_certificate(1) certificate_changes(1)), q{lineage('invoice', 'INV-2026-0042')};
foreach my $who (qw(otto carla adam ann olga)) { fine($who, $_) foreach @reads }
foreach my $report ("ar_aging('2025-10-31')", 'deferred_rollforward(' . OCTOBER . ')', 'churn_exposure')
{
	refused('otto', "SELECT * FROM sync.$report", qr/42501: permission denied for schema canonical/);
}
$node->sql('GRANT sync_analyst TO otto');
fine('otto', "SELECT * FROM sync.ar_aging('2025-10-31')", 'with sync_analyst, too');

# ---- the statements of the runbook ----

# A dead letter for it to look at, and what it calls by ids of its own.
$sandbox->fault(kind => 'status', status => 400, body => '{"error": {"type": "invalid_request_error", "message": "no such thing"}}',
	match => { path => '/v1/customers', method => 'POST' }, times => 1);
$node->sql(q{UPDATE canonical.customer SET billing_email = 'b2@example.com' WHERE number = 'B'});
$node->poll_until('SELECT EXISTS (SELECT FROM sync.dead_letter)');
my $letter = $node->value('SELECT delivery FROM sync.dead_letter');
my $customer = $node->value(q(SELECT id FROM canonical.customer WHERE number = 'A'));
foreach my $statement (statements('runbook.md'))
{
	$statement =~ s/repair\(42/repair($explained/;
	$statement =~ s/8ad3…/$customer/;
	$statement =~ s{3/1042}{$letter};
	# The outage that it tells of was just now.
	$statement =~ s/'2025-10-\d\d( 08:00\+00)?', '2025-1\d-\d\d( 11:30\+00)?'/now() - interval '1 hour', now()/;
	fine('olga', $statement);
}

# ---- a dump keeps it ----

my @kept = map { "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM sync.$_ t" }
  qw(certificate break_entry break_note reconciliation reconciliation_total reconciliation_rule mirror_history approval_policy);
push @kept, 'SELECT object, figure, currency, account, certified, now FROM sync.period_drift', 'SELECT valid, hash, computed FROM sync.verify_certificate(1)';
cmp_ok($node->sql("SELECT count(*) FROM sync.$_"), '>', 0, "there is something in $_") foreach qw(certificate break_entry break_note reconciliation_rule mirror_history);
is($node->wait_idle(60), 't', 'all is quiet');
my $dump = PostgreSQL::Test::Utils::tempdir('dump') . '/hub.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('hub') ], 'pg_dump');
my @before = map { $node->sql($_) } @kept;
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $dump ], 'pg_restore without a complaint');
is($node->safe_psql('copy', $kept[$_]), $before[$_], "the copy has: $kept[$_]") foreach 0 .. $#kept;
is($node->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants hold');
$node->stop;
done_testing();

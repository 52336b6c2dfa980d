# Faults in billing, in the ERP, and on the way to them. See Month::Faults.
package SyncExt::Month::Faults::Vendors;

use strict;
use utf8;
use warnings;

# Invoices in the currency of the books, so that a ledger line has one amount.
my $INVOICE = q(SELECT t.*, jsonb_build_array(t.id, t.number, t.erp, t.billing) AS records FROM month.target_invoice t
	JOIN month.entity e ON e.code = t.entity AND e.currency = t.currency WHERE t.kind = 'period');
my $ANY_INVOICE = q(SELECT t.*, jsonb_build_array(t.id, t.number, t.erp, t.billing) AS records FROM month.target_invoice t WHERE t.kind = 'period');
# Of this month, in open periods, and owed: what changes about them changes no month that is certified.
my $OPEN_INVOICE = q(SELECT t.*, jsonb_build_array(t.id, t.number, t.erp, t.billing) || coalesce((SELECT jsonb_agg(l.id) FROM canonical.invoice_line l WHERE l.invoice_id = t.id), '[]')
	 || coalesce((SELECT jsonb_agg(w.id) FROM canonical.invoice_line l JOIN canonical.revenue_schedule w ON w.invoice_line_id = l.id WHERE l.invoice_id = t.id), '[]') AS records
	FROM month.running_invoice t WHERE t.kind = 'period' AND t.status = 'open' AND t.amount_due = t.total_amount);
my $PAYMENT = q(SELECT p.*, jsonb_build_array(p.id, p.billing, p.allocation_id, p.allocation, p.invoice_id, p.invoice) AS records
	FROM month.target_payment p WHERE p.status = 'succeeded' AND p.allocation IS NOT NULL
	 AND NOT EXISTS (SELECT FROM month.refund r WHERE r.payment = p.plan) AND NOT EXISTS (SELECT FROM month.dispute d WHERE d.payment = p.plan));
my $CUSTOMER = q(SELECT c.id, c.number, c.name, c.billing_email, m.n, m.entity, m.remote AS billing, month.remote_of('customer', c.id, 'erp_' || lower(m.entity)) AS erp,
	jsonb_build_array(c.id, c.number, m.remote, month.remote_of('customer', c.id, 'erp_' || lower(m.entity))) AS records
	FROM month.customer m JOIN canonical.customer c USING (id) WHERE m.n % 10 <> 0);

# The rows of an invoice in the ERP, by its id.
sub without_move
{
	my ($id) = @_;
	return "DELETE FROM account_move_line WHERE move = (SELECT move FROM account_invoice WHERE id = $id);
		DELETE FROM account_move WHERE id = (SELECT move FROM account_invoice WHERE id = $id);";
}

sub kinds
{
	my ($month) = @_;
	my $touched = "write_date = strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'";
	my $erp = sub { my ($row, $sql) = @_; return $month->in_erp($row->{entity}, "BEGIN; $sql COMMIT;") };

	# Half of what is done there it tells by itself, so that a pull sees it; the rest only a full listing does.
	my $told = sub { my ($row) = @_; return $row->{n} % 2 ? '' : "UPDATE account_invoice SET $touched WHERE id = $row->{erp};" };
	my $billing = sub { my ($row, @change) = @_; return $month->{billing}{ $row->{entity} }->tamper(@change) };


	# Of this month the ERP has numbered later ones.
	my $today = sub { my ($row) = @_; return { day => $month->psql("SELECT (now() AT TIME ZONE timezone)::date FROM month.entity WHERE code = '$row->{entity}';") } };

	return (
		{ name => 'lost in the ERP', from => $ANY_INVOICE, found => ['invoice.missing_there'], also => [qw(invoice_in_erp)],
			repair => { 'erp:invoice.missing_there' => [ 'push_again', {}, 2 ] },
			plant => sub {
				my ($row) = @_;
				my $id = $row->{erp};
				$erp->($row, without_move($id) . "DELETE FROM account_invoice_line WHERE invoice = $id; DELETE FROM account_invoice_tax WHERE invoice = $id;
					DELETE FROM account_invoice WHERE id = $id;");
			} },
		{ name => 'doubled in the ERP', from => $INVOICE, found => [qw(invoice.duplicate)], also => [qw(invoice.missing_here invoice.orphan no_orphans)],
			repair => { 'invoice.duplicate' => [ delete_there => { operation => 'cancel' } ] },
			plant => sub {
				my ($row) = @_;
				my $id = $row->{erp};
				my $copy = $id + 500_000;

				# Half of them long ago, so that no pull sees them and only a full listing does.
				my $created = $row->{n} % 2 ? 'create_date' : q(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000');
				$erp->($row, "INSERT INTO account_invoice (id, account, company, create_date, create_uid, currency, description, invoice_address, invoice_date, journal, number, party, reference, state, type)
					SELECT $copy, account, company, $created, create_uid, currency, description, invoice_address, invoice_date, journal, number || 'A', party, reference, state, type FROM account_invoice WHERE id = $id;
					INSERT INTO account_invoice_line (account, company, create_date, create_uid, currency, description, invoice, quantity, type, unit_price)
					SELECT account, company, create_date, create_uid, currency, description, $copy, quantity, type, unit_price FROM account_invoice_line WHERE invoice = $id;
					INSERT INTO account_invoice_tax (account, amount, base, create_date, create_uid, description, invoice, manual)
					SELECT account, amount, base, create_date, create_uid, description, $copy, manual FROM account_invoice_tax WHERE invoice = $id;");
				push @{ $row->{records} }, "$copy";
			}, },
		# What is posted is never changed: it is reversed there, and once that is known made anew.
		{ name => 'one cent off in the ERP', from => $INVOICE, found => ['invoice.amount_differs'], also => [qw(invoice_in_erp paid_before_posted)],
			repair => { 'erp:invoice.amount_differs/total_amount' => [ call_there => { operation => 'cancel' } ], 'invoice_in_erp/posting_status' => 'push_again' },
			plant => sub { $erp->($_[0], cent($_[0]{erp}, '+') . $told->($_[0])) } },
		{ name => 'wrong currency in the ERP', from => $INVOICE, found => ['invoice.field_differs'], also => [qw(invoice.amount_differs invoice_in_erp paid_before_posted)],
			repair => { 'erp:invoice.field_differs/currency' => [ call_there => { operation => 'cancel' } ], 'invoice_in_erp/posting_status' => 'push_again' },
			plant => sub { $erp->($_[0], currency($_[0]{erp}, 'JPY') . $told->($_[0])) } },
		{ name => 'wrong period in the ERP', from => $ANY_INVOICE, found => [qw(invoice.field_differs invoice_in_erp)], also => [qw(invoice.amount_differs paid_before_posted)],
			repair => { 'invoice_in_erp/accounting_period' => [ call_there => { operation => 'cancel' } ], 'invoice_in_erp/posting_status' => 'push_again' },
			plant => sub { $erp->($_[0], period($_[0]{erp}, '+1 month') . "UPDATE account_invoice SET $touched WHERE id = $_[0]{erp};") } },
		{ name => 'unposted in the ERP', from => $ANY_INVOICE, found => [qw(invoice_in_erp invoice.field_differs)], also => [qw(paid_before_posted)],
			repair => { 'invoice_in_erp/posting_status' => [ call_there => { operation => 'post' }, 2 ] },
			plant => sub { $erp->($_[0], without_move($_[0]{erp}) . "UPDATE account_invoice SET state = 'draft', number = NULL, move = NULL, $touched WHERE id = $_[0]{erp};") } },
		{ name => 'orphan in the ERP', from => $INVOICE, found => [qw(invoice.orphan invoice.missing_here)], also => [],
			repair => { 'invoice.missing_here' => 'delete_there' },
			plant => sub {
				my ($row) = @_;
				my $id = $row->{erp} + 700_000;
				$erp->($row, "INSERT INTO account_invoice (id, account, company, create_date, create_uid, currency, description, invoice_address, invoice_date, journal, party, reference, state, type)
					SELECT $id, account, company, create_date, create_uid, currency, NULL, invoice_address, invoice_date, journal, party, 'typed by hand $id', 'draft', type FROM account_invoice WHERE id = $row->{erp};");
				$row->{records} = ["$id"];
			} },
		{ name => 'renamed in the ERP, and never told', from => $CUSTOMER, found => [qw(customer.stale customer.field_differs)], also => [],
			repair => { 'customer.field_differs' => 'pull_again', 'customer.stale' => 'pull_again' },
			plant => sub { $erp->($_[0], "UPDATE party_party SET name = name || ' & Co' WHERE id = $_[0]{erp};") } },

		# Credited in the ERP, and taken out of tax and revenue.
		{ name => 'voided in billing after it was posted', from => $OPEN_INVOICE, found => [qw(voided_after_posting)],
			also => [qw(committed_tax recognized_plus_deferred invoice_in_erp invoice.field_differs invoice.amount_differs invoice.missing_there invoice.missing_here)],
			repair => { voided_after_posting => 'credit_note', committed_tax => 'correct_tax', recognized_plus_deferred => 'reschedule' },
			plant => sub { $billing->($_[0], invoice => $_[0]{billing}, set => { status => 'void', 'status_transitions.voided_at' => time }, event => 'voided') } },
		# Billing owns what it billed: that comes here, the ERP has it reversed and made anew, revenue is planned
		# again, and what the books lack is a journal that somebody approves.
		{ name => 'another price in billing, and never told', from => $OPEN_INVOICE, found => [qw(invoice.amount_differs)],
			also => [qw(line_sums invoice_in_erp invoice.field_differs invoice.stale schedules_complete recognized_plus_deferred)],
			repair => {
				'billing:invoice.amount_differs/total_amount' => 'pull_again', 'invoice_in_erp/total_amount' => [ call_there => { operation => 'cancel' } ],
				'invoice_in_erp/posting_status' => [ push_again => $today ], schedules_complete => 'reschedule',
				recognized_plus_deferred => [ adjustment => { debit_account => '1200', credit_account => '3900' } ] },
			plant => sub { my ($row) = @_; billed($billing, $row, 1) } },
		{ name => 'a payout that falls short', from => q(SELECT -row_number() OVER (ORDER BY o.id) AS n, o.entity, o.remote AS billing, o.amount, jsonb_build_array(p.id, p.number, o.remote) AS records
				FROM month.payout o JOIN canonical.payout p ON p.number = o.id WHERE o.day >= date_trunc('month', month.today()) - interval '1 month'),
			found => [qw(payout_sums)], also => [],
			plant => sub { $billing->($_[0], payout => $_[0]{billing}, set => { amount => $_[0]{amount} - 1000 }) },
			desk => 'the processor pays what was missing',
			remedy => sub { $billing->($_[0], payout => $_[0]{billing}, set => { amount => $_[0]{amount} }) } },
		{ name => 'lost in billing', from => $PAYMENT, found => [qw(payment.missing_there)], also => [qw(payment_allocation.missing_there)],
			plant => sub {
				my ($row) = @_;
				$row->{kept} = $month->{billing}{ $row->{entity} }->stripe(GET => "/v1/payment_intents/$row->{billing}");
				$billing->($row, payment_intent => $row->{billing}, purge => 1);
			},
			desk => 'billing restores it: only who took the money can say that it did',
			remedy => sub { my ($row) = @_; $month->{billing}{ $row->{entity} }->load([ $row->{kept} ]) } },
		{ name => 'a push that billing refuses', from => $CUSTOMER, found => [qw(customer.field_differs dead_letters)], also => [],
			plant => sub { $month->psql("UPDATE canonical.customer SET billing_email = 'books at customer' WHERE id = '$_[0]{id}';") },
			by => 'the application corrects the record, sync.discard()',
			remedy => sub {
				my ($row) = @_;
				$month->psql("UPDATE canonical.customer SET billing_email = 'books-$row->{n}\@customer.example' WHERE id = '$row->{id}';
					SELECT sync.discard(delivery, 'the address was corrected') FROM sync.dead_letter WHERE record_id = '$row->{id}';");
			} },
	);
}

# Debit and credit both, as somebody would mistype it.
sub cent
{
	my ($id, $sign) = @_;
	my $line = "move = (SELECT move FROM account_invoice WHERE id = $id)";
	return "UPDATE account_move_line SET debit = round(debit $sign 0.01, 2) WHERE $line AND account = (SELECT account FROM account_invoice WHERE id = $id);
		UPDATE account_move_line SET credit = round(credit $sign 0.01, 2) WHERE id = (SELECT min(id) FROM account_move_line WHERE $line AND credit > 0);
		UPDATE account_invoice_line SET unit_price = round(unit_price $sign 0.01, 2) WHERE id = (SELECT min(id) FROM account_invoice_line WHERE invoice = $id);";
}

sub currency
{
	my ($id, $code) = @_;
	my $currency = "currency = (SELECT id FROM currency_currency WHERE code = '$code')";
	return "UPDATE account_invoice SET $currency WHERE id = $id; UPDATE account_invoice_line SET $currency WHERE invoice = $id;";
}

sub period
{
	my ($id, $by) = @_;
	return "UPDATE account_move SET date = date(date, 'start of month', '$by'), post_date = date(post_date, 'start of month', '$by'),
		period = (SELECT p.id FROM account_period p WHERE p.type = 'standard' AND p.start_date = date(account_move.date, 'start of month', '$by')
			AND p.fiscalyear IN (SELECT y.id FROM account_fiscalyear y WHERE y.company = account_move.company))
		WHERE id = (SELECT move FROM account_invoice WHERE id = $id);
		UPDATE account_invoice SET accounting_date = (SELECT m.date FROM account_move m WHERE m.id = account_invoice.move) WHERE id = $id;";
}

# A line of it, and what follows from that.
sub billed
{
	my ($billing, $row, $more) = @_;
	my $factor = $row->{currency} eq 'JPY' ? 1 : 100;
	my %amount = map { $_ => sprintf('%.0f', $row->{$_} * $factor) + $more } qw(total_amount net_amount line_amount);

	return $billing->($row, invoice => $row->{billing}, event => \0, set => {
		total => $amount{total_amount}, amount_due => $amount{total_amount}, amount_remaining => $amount{total_amount},
		total_excluding_tax => $amount{net_amount}, subtotal => $amount{net_amount}, subtotal_excluding_tax => $amount{net_amount},
		'lines.data.0.amount' => $amount{line_amount}, 'lines.data.0.subtotal' => $amount{line_amount} });
}

1;

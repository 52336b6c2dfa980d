# A month of a vendor's state in one go, and changes behind the API's back: what a reconciliation is tested with.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use JSON::PP;
use SyncExt::Sandbox;
use Test::More;
use Time::HiRes qw(time);

use constant { INVOICES => 40_000, MOVEMENTS => 100_000, OCTOBER => 1790812800 };

my $sandbox = SyncExt::Sandbox->start(seed => 5);
my $json = JSON::PP->new->canonical;

sub ids { return [ map { $_->{id} } @{ $_[0]{data} } ] }

# As a client walks a list, to its end.
sub walk
{
	my ($path, %query) = @_;
	my (@ids, $after);

	while (1)
	{
		my $page = $sandbox->stripe(GET => $path, { limit => 100, %query, $after ? (starting_after => $after) : () });
		push @ids, @{ ids($page) };
		last if !$page->{has_more};
		$after = $ids[-1];
	}
	return \@ids;
}

subtest 'whole objects as state' => sub {
	my @objects = (
		{ object => 'customer', id => 'cus_1', created => OCTOBER, name => 'Acme', metadata => { sync_id => 'c1' } },
		{ object => 'invoice', id => 'in_2', created => OCTOBER + 20, customer => 'cus_1', currency => 'eur', status => 'open',
			total => 1200, lines => { object => 'list', has_more => JSON::PP::false, data => [ { id => 'il_1', amount => 1200 } ] } },
		{ object => 'invoice', id => 'in_1', created => OCTOBER + 10, customer => 'cus_1', currency => 'jpy', status => 'paid',
			lines => { object => 'list', has_more => JSON::PP::false, data => [ map { { id => "il_2$_", amount => $_ } } 1 .. 12 ] } },
	);
	is($sandbox->load(\@objects), 3, 'loaded');
	is_deeply(ids(scalar $sandbox->stripe(GET => '/v1/invoices')), [qw(in_2 in_1)], 'newest first, in whatever order they came');
	is_deeply(ids(scalar $sandbox->stripe(GET => '/v1/invoices', { customer => 'cus_1', status => 'paid' })), ['in_1'], 'filtered');
	is_deeply(ids(scalar $sandbox->stripe(GET => '/v1/invoices', { customer => 'cus_2' })), [], 'of nobody');
	is_deeply(ids(scalar $sandbox->stripe(GET => '/v1/invoices', { created => { gte => OCTOBER + 11 } })), ['in_2'], 'by creation');
	is_deeply(ids(scalar $sandbox->stripe(GET => '/v1/customers/search', { query => "metadata['sync_id']:'c1'" })), ['cus_1'], 'searched');
	is(scalar @{ $sandbox->stripe(GET => '/v1/invoices/in_1')->{lines}{data} }, 10, 'long documents show ten lines');
	is($sandbox->stripe(POST => '/v1/customers/cus_1', { name => 'Acme 2' })->{name}, 'Acme 2', 'and live on');
	is_deeply(walk('/v1/events'), ids(scalar $sandbox->stripe(GET => '/v1/events', { type => 'customer.updated' })),
		'loading raises no event, living on does');
	is($sandbox->load([ { %{ $objects[1] }, total => 1300 } ], events => 1), 1, 'loaded again');
	is($sandbox->stripe(GET => '/v1/invoices/in_2')->{total}, 1300, 'replaces');
	is(scalar @{ walk('/v1/events', type => 'invoice.created') }, 1, 'with an event where one is asked for');
	like(eval { $sandbox->load([ { object => 'invoice', id => 'in_3' }, { object => 'nothing', id => 'x' } ]); 1 } // $@,
		qr/400.*object 1/, 'what is of no kind');
	is(($sandbox->stripe(GET => '/v1/invoices/in_3'))[0], 404, 'and then nothing of it');
};

subtest 'behind the API\'s back' => sub {
	my $events = @{ walk('/v1/events') };
	is($sandbox->tamper(invoice => 'in_2', set => { total => 1201, 'lines.data.0.amount' => 1201 }, event => 0)->{lines}{data}[0]{amount},
		1201, 'one cent more, deep down');
	is(scalar @{ walk('/v1/events') }, $events, 'in silence');
	$sandbox->tamper(invoice => 'in_2', set => { currency => 'usd' }, unset => ['status']);
	is_deeply($sandbox->stripe(GET => '/v1/events', { limit => 1 })->{data}[0]{data}{previous_attributes},
		{ currency => 'eur', status => 'open' }, 'or as an event tells');
	$sandbox->tamper(invoice => 'in_2', set => { customer => 'cus_9' }, event => 0);
	is_deeply([ @{ ids(scalar $sandbox->stripe(GET => '/v1/invoices', { customer => 'cus_1' })) },
		@{ ids(scalar $sandbox->stripe(GET => '/v1/invoices', { customer => 'cus_9' })) } ], [qw(in_1 in_2)], 'filters follow');
	$sandbox->tamper(invoice => 'in_2', purge => 1);
	is(($sandbox->stripe(GET => '/v1/invoices/in_2'))[0], 404, 'as if it had never been');
	is_deeply(walk('/v1/invoices'), ['in_1'], 'nor listed');
	$sandbox->tamper(customer => 'cus_1', delete => 1, event => 0);
	is($sandbox->stripe(GET => '/v1/customers/cus_1')->{deleted}, JSON::PP::true, 'deleted');
	is(scalar @{ walk('/v1/events', type => 'customer.deleted') }, 0, 'and nobody is told');
	like(eval { $sandbox->tamper(invoice => 'in_1', set => { 'lines.nothing.0.amount' => 1 }); 1 } // $@, qr/no such place/, 'a wrong path');
};

# Lists that look at every object for each page would take minutes here.
subtest 'a month' => sub {
	my @lines = map {
		$json->encode({ object => 'invoice', id => "in_$_", created => OCTOBER + $_ * 60, customer => 'cus_' . $_ % 5000, currency => 'eur',
			status => 'paid', total => $_, metadata => {}, lines => { object => 'list', has_more => JSON::PP::false,
			data => [ { id => "il_$_", object => 'line_item', amount => $_, period => { start => OCTOBER, end => OCTOBER + 86400 } } ] } })
	} 1 .. INVOICES;
	my $began = time;
	is($sandbox->load(\@lines), INVOICES, 'invoices');
	note sprintf 'loaded in %.1f s', time - $began;
	$began = time;
	is(scalar @{ walk('/v1/invoices') }, INVOICES + 0, 'all are listed');
	note sprintf 'listed in %.1f s', time - $began;
	is(scalar @{ walk('/v1/invoices', customer => 'cus_17') }, 8, 'a customer\'s');
	$began = time;
	$sandbox->stripe(GET => '/v1/invoices', { customer => 'cus_18' }) for 1 .. 100;
	cmp_ok(time - $began, '<', 5, 'without reading all of them');
};

subtest 'credit notes, refunds, disputes, payouts' => sub {
	$sandbox->reset(config => JSON::PP::true);
	$sandbox->config(tax_percent => 20);
	my $customer = $sandbox->stripe(POST => '/v1/customers', { name => 'Acme' })->{id};
	my $invoice = sub {
		my ($currency, $amount, $pay) = @_;
		my $id = $sandbox->stripe(POST => '/v1/invoices', { customer => $customer, currency => $currency })->{id};
		$sandbox->stripe(POST => '/v1/invoiceitems', { customer => $customer, invoice => $id, amount => $amount, currency => $currency });
		$sandbox->stripe(POST => "/v1/invoices/$id/" . ($pay ? 'pay' : 'finalize'));
		return scalar $sandbox->stripe(GET => "/v1/invoices/$id");
	};

	my $open = $invoice->(eur => 1000);
	my ($status, $note) = $sandbox->stripe(POST => '/v1/credit_notes', { invoice => $open->{id}, reason => 'order_change',
		lines => [ { type => 'invoice_line_item', invoice_line_item => $open->{lines}{data}[0]{id}, amount => 333 } ] });
	is("$status $note->{subtotal} $note->{total} $note->{lines}{data}[0]{taxes}[0]{amount} $note->{type}", '200 333 400 67 pre_payment', 'a part, with its tax');
	is($note->{number}, "$open->{number}-CN-01", 'numbered by invoice');
	is($sandbox->stripe(GET => "/v1/invoices/$open->{id}")->{amount_remaining}, 800, 'less is to be paid');
	is(($sandbox->stripe(POST => '/v1/credit_notes', { invoice => $open->{id}, amount => 801 }))[0], 400, 'never more than that');
	$sandbox->stripe(POST => "/v1/credit_notes/$note->{id}/void");
	is($sandbox->stripe(GET => "/v1/invoices/$open->{id}")->{amount_remaining}, 1200, 'until it is voided');

	my $paid = $invoice->(jpy => 1000, 1);
	$note = $sandbox->stripe(POST => '/v1/credit_notes', { invoice => $paid->{id}, amount => 200, refund_amount => 200 });
	is("$note->{type} $note->{refunds}[0]{amount_refunded}", 'post_payment 200', 'of a paid invoice it is refunded');
	my $refund = $sandbox->stripe(GET => "/v1/refunds/$note->{refunds}[0]{refund}");
	is("$refund->{amount} $refund->{currency} $refund->{customer}", "200 jpy $customer", 'a refund as any');

	my $charge = $sandbox->stripe(GET => '/v1/charges', { limit => 1 })->{data}[0];
	my $dispute = $sandbox->control(POST => 'dispute', { charge => $charge->{id}, amount => 300, reason => 'fraudulent' });
	is("$dispute->{status} $dispute->{balance_transactions}[0]{net}", 'needs_response -1800', 'a dispute takes amount and fee');
	$sandbox->control(POST => 'dispute', { dispute => $dispute->{id}, status => 'won' });
	is($sandbox->stripe(POST => "/v1/disputes/$dispute->{id}/close")->{error}{type}, 'invalid_request_error', 'decided once');

	my ($payout) = @{ $sandbox->control(POST => 'payout', { currency => 'jpy' })->{payouts} };
	is("$payout->{amount} $payout->{status}", (1200 - 35 - 200) . ' paid', 'a payout is the sum of what moved, less fees');
	my $moved = $sandbox->stripe(GET => '/v1/balance_transactions', { payout => $payout->{id}, limit => 100, expand => ['data.source'] })->{data};
	my $sum = 0;
	$sum += $_->{net} foreach grep { $_->{type} ne 'payout' } @$moved;
	is($sum, $payout->{amount}, 'which a list by payout gives');
	is(join(' ', map { "$_->{type}:$_->{source}{object}" } @$moved), 'payout:payout adjustment:dispute adjustment:dispute refund:refund charge:charge',
		'with the sources in full, where asked for');
	is_deeply($sandbox->control(POST => 'payout', {}), { payouts => [] }, 'nothing is paid out twice');
	is(join(' ', map { $_->{type} } reverse @{ $sandbox->stripe(GET => '/v1/events', { 'types' => [ 'payout.*', 'credit_note.*', 'charge.dispute.*' ], limit => 100 })->{data} }),
		'credit_note.created credit_note.voided credit_note.created charge.dispute.created charge.dispute.funds_withdrawn charge.dispute.closed '
		. 'charge.dispute.funds_reinstated payout.created payout.paid payout.reconciliation_completed', 'events');
};

$sandbox->stop;
done_testing();

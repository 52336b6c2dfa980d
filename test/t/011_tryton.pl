# The real ERP, before any of our code speaks to it: what TRYTON.md promises
# about parties, invoices, amounts and errors.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Tryton;
use Test::More;

plan skip_all => 'tryton-server is not installed' if !-x SyncExt::Tryton::TRYTOND;

my $erp = SyncExt::Tryton->new(session_timeout => 3);
$erp->start;
my $ids   = $erp->ids;
my $today = do { my @now = gmtime; sprintf '%04d-%02d-%02d', $now[5] + 1900, $now[4] + 1, $now[3] };

sub invoice
{
	my ($party, $address, $currency, $lines, %other) = @_;
	return {
		type            => 'out',
		company         => $ids->{company},
		party           => $party,
		invoice_address => $address,
		currency        => $ids->{currency}{$currency},
		account         => $ids->{account}{receivable},
		journal         => $ids->{journal},
		invoice_date    => $erp->date($today),
		lines           => [ [ 'create', [ map { {
			type => 'line', description => $_->[0], quantity => $_->[1],
			unit_price => $erp->decimal($_->[2]), account => $ids->{account}{revenue},
			company => $ids->{company}, currency => $ids->{currency}{$currency},
		} } @$lines ] ] ],
		%other
	};
}

# A line of text is the message of the error, or '' if the call worked.
sub error_of
{
	my ($code) = @_;
	return eval { $code->(); 1 } ? '' : $@;
}

my $party = $erp->model('party.party.create', [ {
	code               => 'C-1',
	name               => "\x{c1}cme & Co \x{20ac}",
	addresses          => [ [ 'create', [ { street => '1 High Street', city => 'London', postal_code => 'N1',
		country => $ids->{country}{GB} } ] ] ],
	contact_mechanisms => [ [ 'create', [ { type => 'email', value => 'billing@acme.example' } ] ] ],
} ])->[0];
my ($row) = @{ $erp->parties };
is($row->{name}, "\x{c1}cme & Co \x{20ac}", 'a name survives the round trip');
is($row->{email}, 'billing@acme.example', 'the e-mail is the party\'s');
is($row->{write_date}, undef, 'write_date is null until the first update');

like(error_of(sub { $erp->model('party.party.create', [ { code => 'C-1', name => 'Other' } ]) }),
	qr/UserError: The code on party must be unique/, 'a code is taken once');

$erp->rename_party('C-1', 'Acme');
my $since = [ 'OR', [ 'write_date', '>', $erp->datetime($row->{create_date}) ],
	[ 'create_date', '>', $erp->datetime($row->{create_date}) ] ];
is_deeply($erp->model('party.party.search', $since, 0, undef, undef), [$party],
	'the changed-since domain finds the rename');

my $address = $erp->model('party.address.search', [ [ 'party', '=', $party ] ], 0, 1, undef)->[0];
my $made = $erp->model('account.invoice.create',
	[ invoice($party, $address, 'EUR', [ [ 'Seats', 3, '33.3333' ], [ 'Fee', 1, '0.01' ] ],
		reference => 'INV-1', description => 'our text') ]);
is($erp->invoices->[0]{total_amount}, '100.01', 'lines are rounded one by one');
$erp->model('account.invoice.post', $made);
$erp->model('account.invoice.post', $made);
($row) = @{ $erp->invoices([ 'reference', '=', 'INV-1' ]) };
is($row->{state}, 'posted', 'posted, and posting twice does nothing');
like($row->{number}, qr{^\d{4}/00001$}, 'the ERP gave its number');
is($row->{party}, 'C-1', 'party by code');

like(error_of(sub { $erp->model('account.invoice.write', $made, { reference => 'X' }) }),
	qr/UserError: You cannot modify invoice/, 'a posted invoice is closed');

# Tax as an amount of ours, in a currency with three digits; then one with none.
for my $case ([ 'BHD', '10.005', '2.001', '12.006' ], [ 'JPY', '1500', '150', '1650' ])
{
	my ($currency, $net, $tax, $total) = @$case;
	$made = $erp->model('account.invoice.create', [
		invoice($party, $address, $currency, [ [ 'Seat', 1, $net ] ],
			reference => "INV-$currency",
			taxes     => [ [ 'create', [ { description => 'VAT', account => $ids->{account}{tax},
				base => $erp->decimal($net), amount => $erp->decimal($tax), manual => JSON::PP::true } ] ] ]) ]);
	is($erp->invoices([ 'id', '=', $made->[0] ])->[0]{total_amount}, $total, "$currency draft total");
	$erp->model('account.invoice.post', $made);
	is($erp->invoices([ 'id', '=', $made->[0] ])->[0]{total_amount}, $total, "$currency posted total");
}
is_deeply($erp->totals_by_currency, { BHD => '12.006', EUR => '100.01', JPY => '1650' }, 'totals by currency');

# An invoice dated before the newest number is refused until it gets an accounting date.
my $yesterday = do { my @then = gmtime(time - 86400); sprintf '%04d-%02d-%02d', $then[5] + 1900, $then[4] + 1, $then[3] };
SKIP:
{
	skip 'yesterday has another sequence', 2 if substr($yesterday, 0, 4) ne substr($today, 0, 4);
	$made = $erp->model('account.invoice.create',
		[ invoice($party, $address, 'EUR', [ [ 'Late', 1, '1' ] ], invoice_date => $erp->date($yesterday)) ]);
	like(error_of(sub { $erp->model('account.invoice.post', $made) }),
		qr/UserError: To number the invoice .* you must set an accounting date/, 'numbers follow the dates');
	$erp->model('account.invoice.write', $made, { accounting_date => $erp->date($today) });
	is(error_of(sub { $erp->model('account.invoice.post', $made) }), '', 'an accounting date settles it');
}

# A payment date in the past is a warning, which an answer written beforehand lets pass.
$made = $erp->model('account.invoice.create',
	[ invoice($party, $address, 'EUR', [ [ 'Old', 1, '1' ] ], payment_term => $ids->{payment_term},
		payment_term_date => $erp->date($yesterday)) ]);
like(error_of(sub { $erp->model('account.invoice.post', $made) }), qr/UserWarning: invoice_payment_term_/,
	'a payment date in the past is a warning');
$erp->model('res.user.warning.create', [ { user => $ids->{user}, name => "invoice_payment_term_$made->[0]" } ]);
is(error_of(sub { $erp->model('account.invoice.post', $made) }), '', 'answered beforehand it passes');

# A session that was idle too long still reads, but may not post. Then the server
# is stopped and started with its data.
$made = $erp->model('account.invoice.create', [ invoice($party, $address, 'EUR', [ [ 'Idle', 1, '1' ] ]) ]);
sleep 4;
my ($status) = $erp->request('model.party.party.search', [], 0, 1, undef, $erp->context);
is($status, 200, 'an idle session reads');
($status) = $erp->request('model.account.invoice.post', $made, $erp->context);
is($status, 401, 'and is ended when it posts');
is(error_of(sub { $erp->model('account.invoice.post', $made) }), '', 'call() logs in again');
$erp->stop;
$erp->start;
is($erp->parties->[0]{name}, 'Acme', 'the data is there after a restart');

done_testing();

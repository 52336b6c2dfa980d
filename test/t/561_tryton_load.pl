# What is loaded into Tryton by SQL is what Tryton would have made of it: asked of Tryton itself, for two companies.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use Math::BigFloat;
use SyncExt::Tryton;
use Test::More;

plan skip_all => 'tryton-server is not installed' if !-x SyncExt::Tryton::TRYTOND;

my $erp = SyncExt::Tryton->new;
$erp->start;
my $today = do { my @now = gmtime; sprintf '%04d-%02d-%02d', $now[5] + 1900, $now[4] + 1, $now[3] };
my $year = substr $today, 0, 4;
my %price = (EUR => [ '19.99', '3.80' ], USD => [ '12.505', '4.44' ], JPY => [ '980', '98' ]);
my @currencies = sort keys %price;
my %ids = (DE => $erp->ids, US => $erp->add_company('Demo Inc', 'USD'));

isnt($ids{US}{account}{receivable}, $ids{DE}{account}{receivable}, 'another company has its own accounts');

# An invoice of every kind: currency x state, and credit notes.
sub invoice
{
	my ($n, $prefix, %other) = @_;
	my $currency = $currencies[ $n % 3 ];
	my ($unit, $tax) = @{ $price{$currency} };

	return { kind => 'invoice', reference => "$prefix-$n", description => "id of $prefix-$n", party => 'C-' . $n % 5, currency => $currency,
		date => sprintf('%04d-01-%02d', $year, 1 + $n % 28), state => (qw(posted paid draft))[ int($n / 3) % 3 ], tax => $tax,
		lines => [ { description => 'Seats', quantity => 2, unit_price => $unit }, { description => 'Fee', quantity => 1, unit_price => '1' } ], %other };
}

my @parties = map { { kind => 'party', code => "C-$_", name => "Customer $_", email => "c$_\@example.com", city => 'Bonn', country => 'DE' } } 0 .. 4;
my @credit = ({ kind => 'invoice', reference => 'CN-1', party => 'C-1', currency => 'EUR', date => "$year-02-01", tax => '-1.90',
	lines => [ { description => 'Credit', quantity => -1, unit_price => '10' } ] });
my @payments = map { { kind => 'payment', description => "ch_$_", party => 'C-1', currency => $currencies[ $_ % 3 ], amount => '10', date => "$year-01-05",
	state => (qw(succeeded failed draft))[ $_ % 3 ] } } 1 .. 6;

is_deeply($erp->load([ @parties, (map { invoice($_, 'DE') } 0 .. 35), @credit, @payments ]), { party => 5, invoice => 37, payment => 6 }, 'loaded');
is_deeply($erp->load([ @parties, map { invoice($_, 'US') } 0 .. 35 ], company => $ids{US}{company}), { party => 5, invoice => 36, payment => 0 },
	'and for the other company');
like(do { local *STDERR; open STDERR, '>', File::Spec->devnull; eval { $erp->load([ invoice(99, 'X'), invoice(1, 'X', party => 'nobody') ]); 1 } // $@ },
	qr/failed/, 'an unknown party');
is($erp->call('model.account.invoice.search_count', [ [ 'reference', 'like', 'X-%' ] ], $erp->context), 0, 'and then nothing of it');

# As Tryton reads it.
sub in_company
{
	my ($code, $method, @params) = @_;
	return SyncExt::Tryton::plain($erp->call("model.$method", @params, { company => $ids{$code}{company} }));
}

foreach my $code (qw(DE US))
{
	my $company = $ids{$code}{company};
	my $invoices = in_company($code, 'account.invoice.search_read', [ [ 'company', '=', $company ], [ 'type', '=', 'out' ] ], 0, undef, [ [ 'id', 'ASC' ] ],
		[qw(reference description number state total_amount tax_amount untaxed_amount invoice_date party.code currency.code move.period.start_date amount_to_pay)]);
	my %by = map { $_->{reference} => $_ } @$invoices;

	is(scalar(grep { !defined $by{"$code-$_"} } 0 .. 35), 0, "$code: all are there, and no other company's");
	is(join(' ', map { my $i = $by{"$code-$_"}; "$i->{state} $i->{'currency.'}{code} " . ($i->{total_amount} + 0) } 0, 4, 8),
		'posted EUR 44.78 paid JPY 2059 draft USD 30.45', 'totals, with lines rounded as Tryton does');
	is(scalar(grep { ($_->{state} eq 'draft') != !defined $_->{number} } @$invoices), 0, 'numbers are of what is posted');
	is(scalar(grep { $_->{state} eq 'paid' && $_->{amount_to_pay} != 0 } @$invoices), 0, 'nothing to pay where paid');
	is(scalar(grep { $_->{state} eq 'posted' && $_->{amount_to_pay} != $_->{total_amount} } @$invoices), 0, 'all to pay where not');
	my @posted = sort { $a->{number} cmp $b->{number} } grep { defined $_->{number} } @$invoices;
	is(join(' ', map { $_->{invoice_date} } @posted), join(' ', sort map { $_->{invoice_date} } @posted), 'numbers rise with dates');
	is($posted[0]{'move.'}{'period.'}{start_date}, "$year-01-01", 'in the period of the date');

	my %balance;
	foreach my $line (@{ in_company($code, 'account.move.line.search_read', [ [ 'move.company', '=', $company ] ], 0, undef, undef, [qw(move debit credit)]) })
	{
		($balance{ $line->{move} } //= Math::BigFloat->new(0))->badd($line->{debit})->bsub($line->{credit});
	}
	cmp_ok(scalar keys %balance, '>=', 36, 'moves');
	is(scalar(grep { !$_->is_zero } values %balance), 0, 'all balance');

	# Tryton decides anew what is paid.
	in_company($code, 'account.invoice.process', [ map { $_->{id} } @$invoices ]);
	my $again = in_company($code, 'account.invoice.search_read', [ [ 'company', '=', $company ] ], 0, undef, [ [ 'id', 'ASC' ] ], [qw(state)]);
	is(join(' ', map { $_->{state} } @$again), join(' ', map { $_->{state} } @$invoices), 'and Tryton comes to the same states');
}

is($erp->invoices([ 'reference', '=', 'CN-1' ])->[0]{total_amount}, '-11.90', 'a credit note is negative');
my $payments = in_company('DE', 'account.payment.search_read', [], 0, undef, [ [ 'id', 'ASC' ] ], [qw(description state amount journal.currency.code party.code)]);
is(join(' ', map { "$_->{description} $_->{state} $_->{'journal.'}{'currency.'}{code}" } @$payments),
	'ch_1 failed JPY ch_2 draft USD ch_3 succeeded EUR ch_4 failed JPY ch_5 draft USD ch_6 succeeded EUR', 'payments');

# Life goes on: numbers follow, and a loaded draft can be posted.
my ($draft) = @{ $erp->invoices([ 'reference', '=', 'DE-8' ], [ 'company', '=', $ids{DE}{company} ]) };
$erp->model('account.invoice.write', [ $draft->{id} ], { accounting_date => $erp->date($today), invoice_date => $erp->date($today) });
$erp->model('account.invoice.post', [ $draft->{id} ]);
($draft) = @{ $erp->invoices([ 'id', '=', $draft->{id} ]) };
is("$draft->{state} $draft->{number} $draft->{total_amount}", sprintf('posted %d/%05d 30.45', $year, 26), 'a loaded draft is posted as the next');

$erp->stop;
done_testing();

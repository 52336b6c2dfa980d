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

$sandbox->stop;
done_testing();

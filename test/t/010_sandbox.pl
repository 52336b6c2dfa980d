# The sandbox itself: what other tests rely on when they use it as their vendor.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use IO::Socket::INET;
use JSON::PP;
use SyncExt::Sandbox;
use Test::More;
use Time::HiRes qw(time sleep);

my $customers = '/v1/customers';
my $sandbox = SyncExt::Sandbox->start(seed => 42);

# A customer under an idempotency key.
sub create
{
	my ($key, %form) = @_;
	my %headers = defined $key ? ('Idempotency-Key' => $key) : ();

	return $sandbox->stripe(POST => $customers, { email => 'ann@example.com', %form }, \%headers);
}

sub error_of
{
	my ($status, $body) = @_;

	return join(' ', $status, map { $body->{error}{$_} // '-' } qw(type code param));
}

# The bytes that a server sends before the connection ends, and how it ends.
sub raw_request
{
	my ($method, $path, $body) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sandbox->port)
	  or die "cannot connect: $!";
	my ($got, $n) = ('');

	print $socket "$method $path HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
	  . $sandbox->api_key
	  . "\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n"
	  . 'Content-Length: '
	  . length($body) . "\r\n\r\n$body";
	1 while $n = sysread($socket, $got, 65536, length $got);
	return ($got, defined $n ? 'closed' : "$!");
}

subtest 'credentials and parameters' => sub {
	my ($status, $body) = $sandbox->stripe(GET => $customers, undef, { Authorization => 'Bearer no' });
	is($status, 401, 'a wrong key');
	is($body->{error}{type}, 'invalid_request_error', 'with an error like Stripe\'s');
	($status) = $sandbox->stripe(GET => $customers, undef,
		{ Authorization => 'Basic c2tfdGVzdF9zYW5kYm94Og==' });
	is($status, 200, 'Basic credentials');
	is(error_of(create(undef, foo => 1)), '400 invalid_request_error parameter_unknown foo', 'unknown');
	is(error_of(create(undef, email => 'nobody')), '400 invalid_request_error email_invalid email', 'email');
	is(error_of($sandbox->stripe(POST => '/v1/prices', { unit_amount => 1 })),
		'400 invalid_request_error parameter_missing currency', 'missing');
	is(error_of($sandbox->stripe(POST => '/v1/prices', { unit_amount => '1.5', currency => 'usd' })),
		'400 invalid_request_error parameter_invalid_integer unit_amount', 'no fractions');
	is(error_of($sandbox->stripe(GET => "$customers/cus_x")),
		'404 invalid_request_error resource_missing id', 'an unknown id');
	is(error_of($sandbox->stripe(POST => '/v1/subscriptions', { customer => 'cus_x', items => [ { price => 'p' } ] })),
		'400 invalid_request_error resource_missing customer', 'an unknown reference');
	my (undef, undef, $answer) = $sandbox->stripe(GET => $customers, undef, { 'Stripe-Version' => '2024-01-01' });
	like($answer->{headers}{'request-id'}, qr/^req_\w{14}$/, 'every answer has a request id');
	is($sandbox->requests(limit => 1)->[0]{headers}{'stripe-version'}, '2024-01-01', 'the version is recorded');
	like($sandbox->requests(limit => 1)->[0]{headers}{authorization}, qr/^hash:/, 'credentials are not');
};

subtest 'metadata, deletes, events' => sub {
	my $c = create(undef, metadata => { a => 1, b => 2, 3 => 'x' });
	$c = $sandbox->stripe(POST => "$customers/$c->{id}", { metadata => { a => '', c => "\x{e9}" }, name => 'Ann' });
	is_deeply($c->{metadata}, { b => 2, 3 => 'x', c => "\x{e9}" }, 'metadata merges');
	my $e = $sandbox->stripe(GET => '/v1/events', { limit => 1 })->{data}[0];
	is($e->{type}, 'customer.updated', 'an update is an event');
	is_deeply($e->{data}{previous_attributes}, { name => undef, metadata => { a => 1, c => undef } },
		'with the previous attributes');
	$sandbox->stripe(POST => "$customers/$c->{id}", { name => 'Ann' });
	is($sandbox->stripe(GET => '/v1/events', { limit => 1 })->{data}[0]{id}, $e->{id},
		'an update that changes nothing is none');
	$c = $sandbox->stripe(DELETE => "$customers/$c->{id}");
	is_deeply(scalar $sandbox->stripe(GET => "$customers/$c->{id}"),
		{ id => $c->{id}, object => 'customer', deleted => JSON::PP::true }, 'a deleted customer');
	is($sandbox->stripe(GET => '/v1/events', { type => 'customer.deleted' })->{data}[0]{data}{object}{name},
		'Ann', 'the event of the deletion has the last state');
};

subtest 'idempotency' => sub {
	my ($s1, $first) = create('k1', name => 'A');
	my ($s2, $second, $answer) = create('k1', name => 'A');
	is($second->{id}, $first->{id}, 'the stored answer');
	is($answer->{headers}{'idempotent-replayed'}, 'true', 'is marked');
	is(error_of(create('k1', name => 'B')), '400 idempotency_error - -', 'other parameters');
	is(error_of($sandbox->stripe(POST => '/v1/products', { name => 'x' }, { 'Idempotency-Key' => 'k1' })),
		'400 idempotency_error - -', 'another endpoint');
	my $key = $sandbox->key('k1');
	is("@$key{qw(executions replays mismatches)}", '1 1 2', 'counted');

	is((create('k2', email => 'bad'))[0], 400, 'a validation error');
	is((create('k2'))[0], 200, 'is not stored');
	my %bad = (customer => 'cus_none', amount => 5, currency => 'usd');
	$sandbox->stripe(POST => '/v1/payment_intents', \%bad, { 'Idempotency-Key' => 'k3' });
	(undef, undef, $answer) = $sandbox->stripe(POST => '/v1/payment_intents', \%bad, { 'Idempotency-Key' => 'k3' });
	is($answer->{headers}{'idempotent-replayed'}, 'true', 'an error of the execution is');

	$sandbox->fault(kind => 'status', status => 500, store => JSON::PP::true);
	is((create('k4'))[0], 500, 'an injected 500');
	($s1, undef, $answer) = create('k4');
	is("$s1 $answer->{headers}{'idempotent-replayed'}", '500 true', 'is replayed when stored');
	is($sandbox->key('k4')->{executions}, 0, 'and nothing was executed');

	$sandbox->config(idempotency_ttl => 3600);
	create('k5');
	$sandbox->clock(advance => 3599);
	create('k5');
	is($sandbox->key('k5')->{executions}, 1, 'a key lives');
	$sandbox->clock(advance => 2);
	create('k5');
	is($sandbox->key('k5')->{executions}, 2, 'until its time is over');

	# The life begins with the use, the effect comes later: two of them may be nearer than a life is long.
	$sandbox->fault(kind => 'slow_effect', ms => 1500, match => { body_contains => 'late' });
	create('k6', name => 'late');
	my $began = $sandbox->key('k6')->{since_ms};
	$sandbox->clock(advance => 3599);
	create('k6', name => 'late');
	my @effects = grep { ($_->{idempotency_key} // '') eq 'k6' } @{ $sandbox->effects('customer') };
	cmp_ok($effects[1]{time_ms} - $effects[0]{time_ms}, '<', 3600_000, 'effects of two lives may be nearer than that');
	is($effects[0]{key_since_ms}, $began, 'each says in which life it was');
	cmp_ok($effects[1]{key_since_ms} - $began, '>=', 3600_000, 'and lives do not overlap');
};

subtest 'a key in use' => sub {
	$sandbox->fault(kind => 'slow_effect', ms => 700, match => { body_contains => 'slow' });
	my $child = fork() // die "fork: $!";
	if ($child == 0)
	{
		create('busy', name => 'slow');
		POSIX::_exit(0);
	}
	sleep 0.05 until ($sandbox->key('busy') // { state => '' })->{state} eq 'running';
	my ($status, $body, $answer) = create('busy', name => 'slow');
	is(error_of($status, $body), '409 idempotency_error idempotency_key_in_use -', 'is a conflict');
	is($answer->{headers}{'stripe-should-retry'}, 'true', 'worth a retry');
	waitpid($child, 0);
	is($sandbox->key('busy')->{executions}, 1, 'executed once');
};

subtest 'many clients' => sub {
	my @children;

	$sandbox->fault(kind => 'reset_after', times => 20, match => { probability => 0.2 });
	$sandbox->fault(kind => 'late_effect', ms => 50, times => 10, match => { probability => 0.1 });
	foreach my $client (1 .. 6)
	{
		my $child = fork() // die "fork: $!";
		if ($child == 0)
		{
			foreach my $n (1 .. 40)
			{
				1 until (create("many$n", name => "n$n"))[0] == 200;
			}
			POSIX::_exit(0);
		}
		push @children, $child;
	}
	waitpid($_, 0) foreach @children;
	sleep 0.05 while $sandbox->stats->{late_effects_pending};
	my @keys = grep { $_->{key} =~ /^many/ } @{ $sandbox->keys };
	is(scalar @keys, 40, 'with the same keys');
	is_deeply([ grep { $_->{executions} != 1 } @keys ], [], 'have one effect each');
	$sandbox->clear_faults;
};

subtest 'faults around the effect' => sub {
	$sandbox->reset;
	$sandbox->fault(kind => 'reset_before', match => { method => 'POST', path => $customers });
	my ($got, $end) = raw_request(POST => $customers, 'name=a');
	is($got, '', 'reset_before sends nothing');
	like($end, qr/reset by peer/, 'and resets');
	is(@{ $sandbox->effects('customer') }, 0, 'nothing happened');

	$sandbox->fault(kind => 'reset_after', match => { path => $customers });
	is((create('r1'))[0], 599, 'reset_after breaks the connection');
	is($sandbox->key('r1')->{executions}, 1, 'after the effect');
	my (undef, undef, $answer) = create('r1');
	is($answer->{headers}{'idempotent-replayed'}, 'true', 'so that a repeat is a replay');

	$sandbox->fault(kind => 'timeout_after_effect', ms => 300);
	my $start = time;
	is((create('r2'))[0], 200, 'timeout_after_effect answers');
	cmp_ok(time - $start, '>=', 0.3, 'late');

	$sandbox->fault(kind => 'late_effect', ms => 300);
	is((create('r3'))[0], 599, 'late_effect gives no answer');
	is($sandbox->key('r3'), undef, 'and has had no effect yet');
	is($sandbox->stats->{late_effects_pending}, 1, 'but will have');
	sleep 0.05 while $sandbox->stats->{late_effects_pending};
	is($sandbox->key('r3')->{executions}, 1, 'and has it by itself');
	$sandbox->fault(kind => 'late_effect', ms => 200, status => 504);
	is((create('r4'))[0], 504, 'as a gateway may answer');
	create('r4');
	sleep 0.05 while $sandbox->stats->{late_effects_pending};
	is("@{$sandbox->key('r4')}{qw(executions replays)}", '1 1', 'a repeat before the late effect wins');

	$sandbox->fault(kind => 'status', status => 502, effect => JSON::PP::true, body => 'bad gateway');
	is((create('r5'))[0], 502, 'an error after the effect');
	is($sandbox->key('r5')->{executions}, 1, 'has the effect');
	my @keys = map { $_->{idempotency_key} } @{ $sandbox->effects('customer') };
	is("@keys", 'r1 r2 r3 r4 r5', 'effects are told in their order');
};

subtest 'faults of the answer' => sub {
	$sandbox->reset;
	my $c = create(undef, name => 'Zed');
	my $path = "$customers/$c->{id}";
	my ($got) = do { $sandbox->fault(kind => 'reset_mid_body'); raw_request(GET => $path, ''); };
	my ($head, $body) = split /\r\n\r\n/, $got, 2;
	my ($length) = $head =~ /Content-Length: (\d+)/i;
	is(length $body, int($length / 2), 'reset_mid_body sends one half');
	$sandbox->fault(kind => 'truncated');
	($got) = raw_request(GET => $path, '');
	($head, $body) = split /\r\n\r\n/, $got, 2;
	($length) = $head =~ /Content-Length: (\d+)/i;
	cmp_ok(length $body, '<', $length, 'truncated promises more than it sends');
	ok(eval { decode_json($body) }, 'of a complete body');

	$sandbox->fault(kind => 'garbage');
	is(($sandbox->stripe(GET => $path))[1], undef, 'garbage is no JSON');
	$sandbox->fault(kind => 'bad_charset');
	my $raw = ($sandbox->stripe(GET => $path))[2]{content};
	ok(!utf8::decode($raw), 'bad_charset is no UTF-8');
	$sandbox->fault(kind => 'nul');
	is($sandbox->stripe(GET => $path)->{name}, "\0Zed", 'nul is in the string');
	$sandbox->fault(kind => 'huge', bytes => 3_000_000);
	is(length(($sandbox->stripe(GET => $path))[2]{content}), 3_000_000, 'huge');
	$sandbox->fault(kind => 'redirect', location => 'http://192.0.2.1/');
	my (undef, undef, $answer) = $sandbox->stripe(GET => $path);
	is("$answer->{status} $answer->{headers}{location}", '307 http://192.0.2.1/', 'redirect');
	$sandbox->fault(kind => 'status', status => 429, headers => { 'Retry-After' => '7' });
	(undef, undef, $answer) = $sandbox->stripe(GET => $path);
	is("$answer->{status} $answer->{headers}{'retry-after'}", '429 7', 'status with headers');

	$sandbox->fault(kind => 'infinite');
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sandbox->port);
	print $socket "GET $path HTTP/1.1\r\nHost: x\r\n\r\n";
	my ($total, $n) = (0);
	$total += $n while $total < 5_000_000 && ($n = sysread($socket, my $chunk, 65536));
	cmp_ok($total, '>=', 5_000_000, 'infinite does not end');
	close $socket;

	$sandbox->clear_faults;
	$sandbox->fault(kind => 'status', status => 503, times => -1, match => { every => 3, path => '/v1/*' });
	my @status = map { ($sandbox->stripe(GET => $path))[0] } 1 .. 6;
	is("@status", '200 200 503 200 200 503', 'every third');
	is("@{$sandbox->faults->[0]}{qw(matched hits)}", '6 2', 'with counters');
	$sandbox->clear_faults;
	$sandbox->fault(kind => 'status', status => 503, match => { nth => 2, method => 'GET' });
	@status = map { ($sandbox->stripe(GET => $path))[0] } 1 .. 3;
	is("@status", '200 503 200', 'only the second');
	ok(!eval { $sandbox->fault(kind => 'status', tmies => 1) }, 'a misspelt rule is refused');
};

subtest 'paging' => sub {
	$sandbox->reset;
	my @ids = map { create(undef, name => "c$_")->{id} } 1 .. 25;
	my $page = $sandbox->stripe(GET => $customers);
	is(scalar @{ $page->{data} }, 10, 'ten by default');
	is($page->{data}[0]{id}, $ids[24], 'newest first');
	my (@seen, $after);
	do
	{
		$page = $sandbox->stripe(GET => $customers, { limit => 7, $after ? (starting_after => $after) : () });
		push @seen, map { $_->{id} } @{ $page->{data} };
		$after = $seen[-1];
	} while ($page->{has_more});
	is_deeply(\@seen, [ reverse @ids ], 'starting_after walks through all');
	$page = $sandbox->stripe(GET => $customers, { limit => 3, ending_before => $ids[20] });
	is_deeply([ map { $_->{id} } @{ $page->{data} } ], [ @ids[ 23, 22, 21 ] ], 'ending_before');
	ok($page->{has_more}, 'has more');
	is(($sandbox->stripe(GET => $customers, { limit => 101 }))[0], 400, 'at most a hundred');

	$sandbox->clock(freeze => 1);
	my $now = $sandbox->clock->{now};
	$sandbox->clock(advance => 10);
	create(undef, name => 'later');
	$page = $sandbox->stripe(GET => $customers, { created => { gte => $now + 10 } });
	is(scalar @{ $page->{data} }, 1, 'created[gte]');
	$sandbox->fault(kind => 'late_page', ms => 5000, times => -1);
	is($sandbox->stripe(GET => $customers)->{data}[0]{name}, 'c25', 'late_page omits the newest');
	is($sandbox->stripe(GET => '/v1/events')->{data}[0]{data}{object}{name}, 'c25', 'events too');
	$sandbox->clock(advance => 6);
	is($sandbox->stripe(GET => $customers)->{data}[0]{name}, 'later', 'for a while');
	$sandbox->clear_faults;
	$sandbox->clock(freeze => 0);
	$sandbox->fault(kind => 'same_second', times => -1, match => { method => 'POST' });
	my %seconds = map { create(undef)->{created} => 1 } 1 .. 2;
	sleep 1.1;
	$seconds{ create(undef)->{created} } = 1;
	is(keys %seconds, 1, 'same_second');
	$sandbox->clear_faults;
};

subtest 'search' => sub {
	$sandbox->reset;
	my $search = sub {
		my $found = $sandbox->stripe(GET => "$customers/search", { query => shift });
		return join(' ', map { $_->{name} } @{ $found->{data} });
	};
	create(undef, name => 'one', metadata => { erp => 'C-1', 'kind' => 'x' });
	create(undef, name => 'two', metadata => { erp => 'C-2', 'kind' => 'x' });
	is($search->(q{metadata['erp']:'C-1'}), 'one', 'by metadata');
	is($search->(q{metadata["kind"]:"x"}), 'two one', 'several');
	is($search->(q{metadata['kind']:'x' AND -name:'one'}), 'two', 'AND, not');
	is($search->(q{name:'one' OR name~'tw'}), 'two one', 'OR, contains');
	is(($sandbox->stripe(GET => "$customers/search", { query => 'rubbish' }))[0], 400, 'a bad query');

	$sandbox->clock(freeze => 1);
	$sandbox->config(search_lag_ms => 60_000);
	my $c = create(undef, name => 'three', metadata => { erp => 'C-3' });
	is($search->(q{metadata['erp']:'C-3'}), '', 'a lagging index does not know it');
	$sandbox->clock(advance => 61);
	is($search->(q{metadata['erp']:'C-3'}), 'three', 'until later');
	$sandbox->stripe(POST => "$customers/$c->{id}", { name => 'drei' });
	is($search->(q{metadata['erp']:'C-3'}), 'three', 'and sees the old state of a change');
	$sandbox->clock(advance => 61);
	is($search->(q{metadata['erp']:'C-3'}), 'drei', 'for a while');
	$sandbox->config(search_lag_ms => 0);
	$sandbox->clock(freeze => 0);
};

subtest 'billing' => sub {
	$sandbox->reset;
	$sandbox->config(tax_percent => 19);
	my $price = sub {
		my ($currency, $amount) = @_;
		return $sandbox->stripe(POST => '/v1/prices',
			{ currency => $currency, unit_amount_decimal => $amount, product_data => { name => 'p' },
				recurring => { interval => 'month' } })->{id};
	};
	my ($eur, $eur2, $jpy) = ($price->('eur', 1999), $price->('EUR', '0.5'), $price->('jpy', 500));
	my $good = create(undef)->{id};
	my $bad = create(undef, metadata => { sandbox_payment => 'fail' })->{id};
	my $subscribe = sub { return $sandbox->stripe(POST => '/v1/subscriptions', {@_}); };
	my $sub = $subscribe->(customer => $good, metadata => { erp => 'S1' },
		items => [ { price => $eur, quantity => 3 }, { price => $eur2, quantity => 101 } ]);
	my $failing = $subscribe->(customer => $bad, items => [ { price => $jpy } ]);
	my $sent = $subscribe->(customer => $good, collection_method => 'send_invoice', days_until_due => 30,
		items => [ { price => $jpy, quantity => 2 } ]);
	is(error_of($sandbox->stripe(POST => '/v1/subscriptions',
		{ customer => $good, items => [ { price => $eur }, { price => $jpy } ] })),
		'400 invalid_request_error - items[price]', 'currencies do not mix');

	my $run = $sandbox->bill;
	is("@$run{qw(invoices paid open failed)}", '3 1 2 1', 'three invoices');
	is($sandbox->bill->{invoices}, 0, 'and not again');
	# 3 × 1999 + round(50.5) = 6048, of which 19 % by line are 1139 + 10
	is_deeply($run->{totals}{eur}, { count => 1, subtotal => 6048, tax => 1149, total => 7197,
			amount_paid => 7197, amount_remaining => 0 }, 'totals in euros');
	is("@{$run->{totals}{jpy}}{qw(count total amount_remaining)}", '2 1785 1785', 'and in yen');
	is_deeply($sandbox->totals, $run->{totals}, 'known afterwards');

	my $invoice = $sandbox->stripe(GET => '/v1/invoices', { subscription => $sub->{id} })->{data}[0];
	like($invoice->{number}, qr/^[0-9A-Z]{8}-0001$/, 'has a number');
	is($invoice->{parent}{subscription_details}{metadata}{erp}, 'S1', 'names its subscription');
	is($invoice->{lines}{data}[0]{pricing}{price_details}{price}, $eur, 'lines name prices');
	is(join(' ', map { $_ // 'null' } @$invoice{qw(status amount_due amount_paid amount_remaining due_date)}),
		'paid 7197 7197 0 null', 'is paid');
	is($sandbox->stripe(GET => "/v1/subscriptions/$failing->{id}")->{status}, 'past_due', 'past due');
	my $open = $sandbox->stripe(GET => '/v1/invoices', { customer => $bad })->{data}[0];
	is(error_of($sandbox->stripe(POST => "/v1/invoices/$open->{id}/pay")), '402 card_error card_declined -',
		'the card still declines');
	$sandbox->stripe(POST => "$customers/$bad", { metadata => { sandbox_payment => '' } });
	is($sandbox->stripe(POST => "/v1/invoices/$open->{id}/pay")->{status}, 'paid', 'and then does not');
	is($sandbox->stripe(GET => "/v1/subscriptions/$failing->{id}")->{status}, 'active', 'active again');
	my $due = $sandbox->stripe(GET => '/v1/invoices', { subscription => $sent->{id} })->{data}[0];
	is($due->{due_date} - $due->{created}, 30 * 86400, 'sent invoices fall due');
	is($sandbox->stripe(POST => "/v1/invoices/$due->{id}/void")->{status}, 'void', 'and may be voided');

	my @types = map { $_->{type} } @{ $sandbox->stripe(GET => '/v1/events',
			{ limit => 100, types => [ 'invoice.payment_failed', 'invoice.voided' ] })->{data} };
	is("@types", 'invoice.voided invoice.payment_failed invoice.payment_failed', 'events by type');
};

subtest 'periods' => sub {
	$sandbox->reset;
	$sandbox->clock(set => 1_769_860_800, freeze => 1);    # 2026-01-31T12:00:00Z
	my $price = $sandbox->stripe(POST => '/v1/prices', { currency => 'usd', unit_amount => 100,
			product_data => { name => 'p' }, recurring => { interval => 'month' } });
	my $sub = $sandbox->stripe(POST => '/v1/subscriptions',
		{ customer => create(undef)->{id}, items => [ { price => $price->{id} } ] });
	my @days;
	foreach (1 .. 3)
	{
		$sub = $sandbox->stripe(GET => "/v1/subscriptions/$sub->{id}");
		my $end = $sub->{items}{data}[0]{current_period_end};
		push @days, POSIX::strftime('%m-%d', gmtime $end);
		is($sandbox->bill(advance => 1)->{invoices}, 1, 'a period is billed');
		is($sandbox->bill(advance => 1)->{invoices}, 0, 'but not before it starts');
		$sandbox->clock(set => $end);
	}
	is("@days", '02-28 03-31 04-30', 'a 31st is the last day of short months');
	$sandbox->stripe(POST => "/v1/subscriptions/$sub->{id}", { cancel_at_period_end => 'true' });
	is($sandbox->bill(advance => 1)->{canceled}, 1, 'cancelled at the end of a period');
	is($sandbox->stripe(GET => "/v1/subscriptions/$sub->{id}")->{status}, 'canceled', 'is cancelled');
	is(@{ $sandbox->stripe(GET => '/v1/subscriptions')->{data} }, 0, 'and not in the list');
	$sandbox->clock(freeze => 0);
};

subtest 'invoices by hand' => sub {
	$sandbox->reset(config => 1);
	my $c = create(undef)->{id};
	my $invoice = $sandbox->stripe(POST => '/v1/invoices', { customer => $c, currency => 'bhd' });
	foreach my $n (1 .. 12)
	{
		$sandbox->stripe(POST => '/v1/invoiceitems',
			{ customer => $c, invoice => $invoice->{id}, amount => $n, currency => 'bhd', description => "l$n" });
	}
	$invoice = $sandbox->stripe(POST => "/v1/invoices/$invoice->{id}/finalize");
	is("@$invoice{qw(status total currency)}", 'open 78 bhd', 'finalised');
	is(scalar @{ $invoice->{lines}{data} }, 10, 'shows ten lines');
	ok($invoice->{lines}{has_more}, 'and that there are more');
	my $rest = $sandbox->stripe(GET => $invoice->{lines}{url},
		{ starting_after => $invoice->{lines}{data}[9]{id} });
	is(join(' ', map { $_->{description} } @{ $rest->{data} }), 'l11 l12', 'which can be had');
	is(error_of($sandbox->stripe(POST => "/v1/invoices/$invoice->{id}/finalize")),
		'400 invalid_request_error invoice_not_editable -', 'not twice');
	$sandbox->stripe(POST => "/v1/invoices/$invoice->{id}/pay");
	my $charge = $sandbox->stripe(GET => '/v1/charges', { customer => $c })->{data}[0];
	is($sandbox->stripe(POST => '/v1/refunds', { charge => $charge->{id}, amount => 8 })->{amount}, 8, 'refund');
	is(error_of($sandbox->stripe(POST => '/v1/refunds', { charge => $charge->{id}, amount => 71 })),
		'400 invalid_request_error amount_too_large amount', 'not more than is left');
};

subtest 'rate limit' => sub {
	$sandbox->config(rate_limit => 5, retry_after => 1);
	my %count;
	my $last;
	foreach (1 .. 10)
	{
		my ($status, undef, $answer) = $sandbox->stripe(GET => $customers);
		$count{$status}++;
		$last = $answer if $status == 429;
	}
	ok($count{200} >= 5 && $count{429} >= 1, 'some pass, some do not');
	is($last->{headers}{'retry-after'}, 1, 'with Retry-After');
	$sandbox->config(rate_limit => 0);
};

subtest 'the plain vendor' => sub {
	$sandbox->reset;
	is(($sandbox->rest(PUT => '/party/by_ext/E%2F1', { name => 'a' }))[0], 201, 'upsert creates');
	my ($status, $body, $answer) = $sandbox->rest(PUT => '/party/by_ext/E%2F1', { name => 'b' });
	is("$status $body->{name} $body->{external_id} $answer->{headers}{etag}", '200 b E/1 "v2"', 'or updates');
	is(($sandbox->rest(PATCH => '/party/1', { x => 1 }, { 'If-Match' => '"v1"' }))[0], 412, 'a stale tag');
	is($sandbox->rest(PATCH => '/party/1', { x => 1 }, { 'If-Match' => '"v2"' })->{name}, 'b', 'a good one merges');
	$sandbox->clock(freeze => 1);
	$sandbox->clock(advance => 1);
	$sandbox->rest(POST => '/party', { name => "p$_", external_id => 'same' }) foreach 1 .. 2;
	is($sandbox->rest(GET => '/party?external_id=same')->{total}, 2, 'POST makes duplicates');
	$sandbox->config(rest_honours_keys => JSON::PP::true);
	$sandbox->rest(POST => '/party', { name => 'k' }, { 'Idempotency-Key' => 'R' }) foreach 1 .. 2;
	is("@{$sandbox->key('R')}{qw(executions replays)}", '1 1', 'unless it honours keys');
	my $since = $sandbox->rest(GET => '/party/3')->{updated_at};
	$sandbox->clock(advance => 1);
	is(($sandbox->rest(DELETE => '/party/2'))[0], 204, 'delete');
	is(($sandbox->rest(GET => '/party/2'))[0], 410, 'is gone');
	is($sandbox->rest(GET => '/party')->{total}, 3, 'and not in the list');
	my $page = $sandbox->rest(GET => "/party?include_deleted=1&updated_since=$since&per_page=2");
	is(join(' ', map { $_->{id} } @{ $page->{data} }), '3 4', 'changes since, oldest first, then by id');
	is($page->{next_page}, 2, 'another page');
	$page = $sandbox->rest(GET => "/party?include_deleted=1&updated_since=$since&per_page=2&page=2");
	is($page->{data}[0]{id}, '2', 'with the tombstone');
	$sandbox->clock(freeze => 0);
	is(($sandbox->http(POST => '/sink/x?delay_ms=1', undef, '{}'))->{status}, 200, 'the sink');
};

subtest 'a batch' => sub {
	my $items = sub { { items => [ map { { external_id => $_, name => "$_ 1" } } @_ ] } };
	my $seen = sub { join ' ', map { "$_->{external_id}=$_->{status}" } @{ $_[0]{results} } };

	$sandbox->reset;
	my ($status, $body) = $sandbox->rest(POST => '/party/_batch', $items->(qw(a b)));
	is("$status " . $seen->($body), '200 b=201 a=201', 'upserts each, answers in reverse');
	is($seen->(scalar $sandbox->rest(POST => '/party/_batch', $items->(qw(b c)))), 'c=201 b=200', 'again');
	is(join(' ', map { "$_->{external_id}$_->{version}" } @{ $sandbox->effects }), 'a1 b1 b2 c1', 'an effect each');
	$sandbox->config(rest_refuse => 'bad', rest_forget => 'c 1');
	($status, $body) = $sandbox->rest(POST => '/party/_batch', $items->(qw(bad c d)));
	is("$status " . $seen->($body), '207 d=201 bad=422', 'one refused, one forgotten');
	is(($sandbox->rest(PUT => '/party/by_ext/x', { name => 'a bad one' }))[0], 422, 'alone, too');
	my $before = @{ $sandbox->effects };
	$sandbox->config(rest_all_or_nothing => JSON::PP::true);
	is(($sandbox->rest(POST => '/party/_batch', $items->(qw(e bad))))[0], 400, 'or all of them');
	is(($sandbox->rest(POST => '/party/_batch', $items->(1 .. 101)))[0], 400, 'too many');
	is(@{ $sandbox->effects }, $before, 'and nothing happened');
	$sandbox->reset(config => JSON::PP::true);
};

subtest 'the end' => sub {
	my $other = SyncExt::Sandbox->start;
	my $pid = $other->pid;
	delete $other->{stdin};
	my $deadline = time + 5;
	sleep 0.05 while waitpid($pid, POSIX::WNOHANG()) == 0 && time < $deadline;
	ok(!kill(0, $pid), 'a sandbox ends with its parent\'s end of stdin');
	delete $other->{pid};
	$sandbox->stop;
	ok(!IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sandbox->port), 'and when it is told to');
};

done_testing();

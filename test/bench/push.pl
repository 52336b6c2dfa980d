# Deliveries to one system, against libcurl alone and against graphile-worker.
#
# bench: push.fast_sink.vs_libcurl push.fast_sink.vs_graphile push.slow_sink.vs_libcurl
# bench: push.latency.idle push.latency.trickle
#
# The system is an nginx that answers at once, in Stripe's words, with a new id each time. Customers
# are written while it is paused; the rate is that from resume() to the last outcome on record, of
# 10 000 distinct customers with a body of about 1 kB, through the shipped manifest.
use strict;
use warnings;

use SyncExt::Bench;
use SyncExt::Peers;

my $N = 10_000;

my $sink = start_nginx(<<'NGINX');
location / {
	default_type application/json;
	return 200 '{"id": "cus_$request_id", "object": "customer", "livemode": false}';
}
NGINX

my $node = bench_cluster('push', allow => $sink);

$node->secret('billing', 'api_key', 'sk_test_bench');
$node->sql(qq{
	SELECT sync.create_canonical_model();
	SELECT sync.track('canonical.customer');
	SELECT sync.register_connector('stripe');
	CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext
		OPTIONS (connector 'stripe', base_url '$sink', rate_limit '1000000/s', max_in_flight '64');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key');
	SELECT sync.create_route('billing', 'customer')});
my $made = 0;

sub write_customers
{
	my ($n) = @_;
	my $first = $made + 1;

	$made += $n;
	$node->sql(qq{
		INSERT INTO canonical.customer (kind, number, name, billing_email, billing_address)
		SELECT 'organization', 'C-' || i, 'Customer ' || i || repeat(' and company', 25), 'c' || i || '\@example.com',
			jsonb_build_object('line1', i || repeat(' Long Street', 12), 'line2', repeat('Suite ', 20), 'city', 'Springfield', 'postal_code', '12345',
				'country', 'US')
		FROM generate_series($first, $made) i});
	return;
}

sub deliveries
{
	return $node->value(q(SELECT count(*) FROM sync.outcome WHERE final AND outcome = 'done'));
}

# Deliveries a second of n waiting customers.
sub push_rate
{
	my ($n) = @_;

	$node->sql(q(SELECT sync.pause('billing')));
	write_customers($n);
	my $before = deliveries();
	my ($began) = $node->sql(q(SELECT clock_timestamp() FROM (SELECT sync.resume('billing')) r));
	$node->wait_idle(300) eq 't' or die 'the hub does not become idle';
	my $done = deliveries() - $before;
	die "$done of $n were delivered" if $done != $n;
	return $n / $node->value("SELECT extract(epoch FROM max(at) - '$began') FROM sync.outcome");
}

if (wanted('push.fast_sink.vs_libcurl') || wanted('push.fast_sink.vs_graphile'))
{
	push_rate(2000);
	if (wanted('push.fast_sink.vs_libcurl'))
	{
		my @pairs = interleave(5, sub { push_rate($N) }, sub { curl_rate("$sink/", 5 * $N, 32) });

		note('deliveries/s, libcurl alone: ' . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
		report('push.fast_sink.vs_libcurl', [ ratios(@pairs) ], '>=', 0.40);
	}
	if (wanted('push.fast_sink.vs_graphile'))
	{
		my @pairs = interleave(5, sub { push_rate($N) },
			sub { graphile_prepare($node, $N); graphile_rate($node, $sink, $N) });

		note('deliveries/s, graphile-worker: ' . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
		report('push.fast_sink.vs_graphile', [ ratios(@pairs) ], '>=', 1.5);
	}
}

# Deliveries to one system, against libcurl alone and against graphile-worker, and how soon they leave.
#
# bench: push.fast_sink.vs_libcurl push.fast_sink.vs_graphile push.slow_sink.vs_libcurl
# bench: push.latency.idle push.latency.trickle
#
# The fast system is an nginx that answers at once, in Stripe's words, with a new id each time; the
# slow one is sink.c. Customers are written while the system is paused; the rate is that from resume()
# to the last outcome on record, of 10 000 distinct customers with a body of about 1 kB, through the
# shipped manifest. As on a server that has run for a while, WAL goes to files of before and no buffer
# is new. Latency is from the end of a commit, as the client sees it, to the last byte of its request
# at the system.
use strict;
use warnings;

use PostgreSQL::Test::Utils ();
use SyncExt::Bench;
use SyncExt::Peers;

my $N = 10_000;
my $ID = '{"id": "cus_$request_id", "object": "customer", "livemode": false}';
my $fast = start_nginx("location / { default_type application/json; return 200 '$ID'; }");
my ($slow) = start_sink(50);
my ($prompt, $arrivals) = start_sink(0);
my $node = bench_cluster('push', conf => "sync_ext.allowed_hosts = '$fast, $slow, $prompt'\n"
	  . "sync_ext.max_in_flight = 800\n");

$node->sql("SELECT sync.create_canonical_model(); SELECT sync.track('canonical.customer');
	SELECT sync.register_connector('stripe')");
recycle_wal($node, 80);
warm_buffers($node);

# The only system with a route, from now on.
my $system;

sub speak_to
{
	my ($name, $url, $in_flight) = @_;

	$node->sql("SELECT sync.drop_route('customer_to_$system')") if defined $system;
	$system = $name;
	$node->secret($name, 'api_key', 'sk_test_bench');
	$node->sql("CREATE SERVER $name FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'stripe',
			base_url '$url', rate_limit '1000000/s', max_in_flight '$in_flight');
		CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (api_key 'file:api_key');
		SELECT sync.create_route('$name', 'customer')");
	return;
}

$node->sql(q{CREATE SEQUENCE made;
	CREATE FUNCTION make_customers(n integer) RETURNS void LANGUAGE sql AS $f$
		INSERT INTO canonical.customer (kind, number, name, billing_email, billing_address)
		SELECT 'organization', 'C-' || i, 'Customer ' || i || repeat(' and company', 25),
			'c' || i || '@example.com',
			jsonb_build_object('line1', i || repeat(' Long Street', 12), 'line2', repeat('Suite ', 20),
				'city', 'Springfield', 'postal_code', '12345', 'country', 'US')
		FROM (SELECT nextval('made') FROM generate_series(1, n)) x (i) $f$});

sub deliveries
{
	return $node->value(q(SELECT count(*) FROM sync.outcome WHERE final AND outcome = 'done'));
}

# Deliveries a second of n waiting customers.
sub push_rate
{
	my ($n) = @_;

	$node->sql("SELECT sync.pause('$system'); SELECT make_customers($n)");
	settle_disk();
	my $before = deliveries();
	my ($began) = $node->sql("SELECT clock_timestamp() FROM (SELECT sync.resume('$system')) r");
	$node->wait_idle(300) eq 't' or die 'the hub does not become idle';
	my $done = deliveries() - $before;
	die "$done of $n were delivered" if $done != $n;
	return $n / $node->value("SELECT extract(epoch FROM max(at) - '$began') FROM sync.outcome");
}

sub compare
{
	my ($line, $peer, $target, $theirs) = @_;
	return if !wanted($line);
	my @pairs = interleave(5, sub { push_rate($N) }, $theirs);

	note("deliveries/s, $peer: " . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
	report($line, [ ratios(@pairs) ], '>=', $target);
	return;
}

# Milliseconds from each of n commits, at a rate a second, to its request.
sub latencies
{
	my ($rate, $n) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir('pgbench');
	my $from = $node->value(q(SELECT nextval('made'))) + 1;

	PostgreSQL::Test::Utils::append_to_file("$script/insert.sql", "SELECT make_customers(1);\n");
	system('pgbench', '-h', $node->host, '-p', $node->port, '-n', '-c', 1, '-t', $n, '-R', $rate, '-l',
		"--log-prefix=$script/log", '-f', "$script/insert.sql", 'hub') == 0
	  or die 'pgbench failed';
	$node->wait_idle(60) eq 't' or die 'the hub does not become idle';
	my %came = map { my ($us, $number) = split; $number =~ s/C-//; ($number => $us) }
	  split /\n/, PostgreSQL::Test::Utils::slurp_file($arrivals);
	my @commits = map { my @f = split; $f[4] * 1e6 + $f[5] }
	  split /\n/, PostgreSQL::Test::Utils::slurp_file(glob "$script/log*");

	return sort { $a <=> $b } map { ($came{ $from + $_ } - $commits[$_]) / 1000 } 0 .. $#commits;
}

sub report_latency
{
	my ($line, $rate, $n) = @_;
	return if !wanted($line);
	my (@half, @most);

	foreach my $run (1 .. 5)
	{
		my @ms = latencies($rate, $n);
		push @half, $ms[ $#ms / 2 ];
		push @most, $ms[ $#ms * 0.99 ];
	}
	report("$line.p50", \@half, '<=', 1, 'ms');
	report("$line.p99", \@most, '<=', 5, 'ms');
	return;
}

if (wanted('push.fast_sink.vs_libcurl') || wanted('push.fast_sink.vs_graphile'))
{
	speak_to('billing', $fast, 64);
	push_rate(2000);
	compare('push.fast_sink.vs_libcurl', 'libcurl alone', 0.40, sub { curl_rate("$fast/", 5 * $N, 32) });
	compare('push.fast_sink.vs_graphile', 'graphile-worker', 1.5,
		sub { graphile_prepare($node, $N); settle_disk(); graphile_rate($node, $fast, $N) });
}
if (wanted('push.slow_sink.vs_libcurl'))
{
	speak_to('slow', $slow, 400);
	push_rate(2000);
	compare('push.slow_sink.vs_libcurl', 'libcurl alone', 0.93, sub { curl_rate("$slow/", 2 * $N, 400) });
}
if (wanted('push.latency.idle') || wanted('push.latency.trickle'))
{
	speak_to('prompt', $prompt, 64);
	latencies(50, 50);
	report_latency('push.latency.idle', 20, 80);
	report_latency('push.latency.trickle', 100, 300);
}

# Single-row inserts while every system is down and the backlog grows, against the same inserts into
# a tracked table that no route wants.
#
# bench: write.with_dead_vendor
#
# Three systems, each dead in its own way: one refuses connections, one answers 503, one never
# answers. pgbench, 4 clients, prepared statements, synchronous_commit off.
use strict;
use warnings;

use IO::Socket::INET;
use SyncExt::Bench;
use Time::HiRes qw(sleep);

my $failing = start_nginx('location / { return 503; }');
my $silent = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "cannot listen: $!";
my %dead = (
	refusing => 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port(),
	failing => $failing,
	silent => 'http://127.0.0.1:' . $silent->sockport);
my $node = bench_cluster('dead', allow => join(', ', values %dead),
	conf => "synchronous_commit = off\nautovacuum = off\n");
$node->sql(q{
	SELECT sync.create_canonical_model();
	SELECT sync.create_canonical_model('unrouted');
	SELECT sync.track('canonical.customer');
	SELECT sync.track('unrouted.customer', 'unrouted_customer');
	SELECT sync.register_connector('stripe')});
foreach my $system (sort keys %dead)
{
	$node->secret($system, 'api_key', 'sk_test_bench');
	$node->sql(qq{
		CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'stripe', base_url '$dead{$system}', timeout '2 s');
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS (api_key 'file:api_key');
		SELECT sync.create_route('$system', 'customer')});
}
sub tps { return customer_tps($node, @_) }

# Down for a while already: the breakers have opened. (A 503 is an answer: no notice.)
tps($_, 3) foreach qw(canonical unrouted);
$node->poll_until(q(SELECT count(*) = 2 FROM sync.notice WHERE key LIKE 'reach:%'), 60);

my $hub = hub_pid($node);
my $cpu = cpu_seconds($hub);
my $took;
my @pairs;

$took = seconds(
	sub {
		@pairs = interleave(long() ? 15 : 7, sub { tps('canonical', 3) }, sub { tps('unrouted', 3) });
	});
report('write.with_dead_vendor', [ ratios(@pairs) ], '>=', 0.95);
note(sprintf 'transactions/s: %.0f with dead systems, %.0f without a route (medians)',
	median(map { $_->[0] } @pairs), median(map { $_->[1] } @pairs));
note(sprintf 'hub: %.1f %% of a core, %d kB at its peak; %s events wait',
	100 * (cpu_seconds($hub) - $cpu) / $took, peak_kb($hub),
	$node->value('SELECT count(*) FROM sync.outbox'));

# Applying pages of changed customers, with owners declared for every field and without.
#
# bench: apply.with_ownership
#
# The system is an nginx that serves pages of 100 customers as files, in Stripe's words; between two
# walks the name of each customer changes. So each walk reads every row, locks it, compares it with what
# was agreed, decides and writes it. With ownership each column that the mapping reads has an owner of its own (the system
# itself, so that what is written is the same), without it there is no row in sync.owner.
use strict;
use warnings;

use SyncExt::Bench;
use Digest::MD5 qw(md5_hex);
use JSON::PP;
use PostgreSQL::Test::Utils ();

my $N = 20_000;
my $SIZE = 100;
my $dir = PostgreSQL::Test::Utils::tempdir('pages');

sub customer
{
	my ($n, $version) = @_;
	my $off = JSON::PP::false;

	return {
		id => 'cus_' . substr(md5_hex("id $n"), 0, 14),
		object => 'customer',
		address => {
			city => "Springfield $n", country => 'DE', line1 => "Main Street $n", line2 => undef,
			postal_code => sprintf('%05d', $n), state => undef
		},
		balance => 0, created => 1_700_000_000 + $n, currency => 'eur', default_source => undef,
		delinquent => $off, description => undef, discount => undef, email => "c$n\@example.com",
		livemode => $off, metadata => { number => "C-$n", segment => 'mid-market', region => 'emea' },
		name => "Customer $n GmbH, version $version", phone => undef, shipping => undef, tax_exempt => 'none'
	};
}

# One file a page, named by the id behind which it begins.
sub render_pages
{
	my ($version) = @_;
	my $json = JSON::PP->new->canonical;
	my $after = '';

	mkdir "$dir/$version" or die "cannot make a folder: $!";
	for (my $first = 0; $first < $N; $first += $SIZE)
	{
		my @customers = map { customer($_, $version) } $first .. $first + $SIZE - 1;
		my $more = $first + $SIZE < $N ? JSON::PP::true : JSON::PP::false;

		open my $file, '>', "$dir/$version/after-$after.json" or die "cannot write: $!";
		print $file $json->encode({ object => 'list', url => '/v1/customers', has_more => $more, data => \@customers });
		close $file or die "cannot write: $!";
		$after = $customers[-1]{id};
	}
	return;
}

render_pages($_) foreach 0, 1;
symlink "$dir/0", "$dir/now" or die "cannot link: $!";
my $url = start_nginx(<<"NGINX");
default_type application/json;
root $dir/now;
location = /v1/customers { try_files /after-\$arg_starting_after.json =404; }
location = /v1/events { return 200 '{"object": "list", "has_more": false, "data": []}'; }
NGINX
my $node = bench_cluster('apply', allow => $url);

$node->secret('billing', 'api_key', 'sk_test_bench');
$node->sql(qq{
	SELECT sync.create_canonical_model();
	SELECT sync.track('canonical.customer');
	SELECT sync.register_connector('stripe');
	CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext
		OPTIONS (connector 'stripe', base_url '$url', rate_limit '1000000/s');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key')});

my $version = 0;

# Rows a second of a walk in which every record has another name than before.
sub apply_rate
{
	my $cursor = q(sync.stream_cursor c JOIN sync.stream s ON s.id = c.stream_id AND s.state = 'active');

	$node->sql(q(SELECT sync.drop_stream('billing', 'customer') FROM sync.stream WHERE state = 'active';
		SELECT sync.create_stream('billing', 'customer');
		CHECKPOINT;
		SELECT sync.request_pull('billing', 'customer')));
	$node->poll_until("SELECT c.finished_at >= c.started_at FROM $cursor", 120);
	my ($seconds, $records, $applied) = split /\|/, $node->sql(
		"SELECT extract(epoch FROM c.finished_at - c.started_at), c.records, c.applied FROM $cursor");
	die "$records records and $applied applied" if $records != $N || $applied != $N;

	$version = 1 - $version;
	symlink "$dir/$version", "$dir/next" or die "cannot link: $!";
	rename "$dir/next", "$dir/now" or die "cannot link: $!";
	return $N / $seconds;
}

my $OWNERS = q(INSERT INTO sync.owner (object_id, field, system_id, on_violation)
	SELECT o.id, a.attname, y.id, 'reject' FROM sync.object o JOIN pg_attribute a ON a.attrelid = o.table_oid
	   AND a.attnum > 0 AND NOT a.attisdropped, sync.system y WHERE o.name = 'customer' AND y.name = 'billing');

apply_rate(); # all are new
apply_rate(); # and settled
my %cpu = (with => 0, without => 0);

sub measured
{
	my ($which) = @_;
	my $pid = hub_pid($node);

	$cpu{$which} -= cpu_seconds($pid);
	my $rate = apply_rate();
	$cpu{$which} += cpu_seconds($pid);
	return $rate;
}

my @pairs = interleave(
	5,
	sub { $node->sql("DELETE FROM sync.owner; $OWNERS"); return measured('with') },
	sub { $node->sql('DELETE FROM sync.owner'); return measured('without') });

note('rows/s, with/without: ' . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
note(sprintf 'the hub took %.1f and %.1f us of processor time a row, HTTP included', map { $cpu{$_} * 1e6 / (5 * $N) } qw(with without));
report('apply.with_ownership', [ ratios(@pairs) ], '>=', 0.8) if wanted('apply.with_ownership');
$node->stop;

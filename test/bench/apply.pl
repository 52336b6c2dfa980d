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
use SyncExt::Pages;
use PostgreSQL::Test::Utils ();

my $N = 20_000;
my $dir = PostgreSQL::Test::Utils::tempdir('pages');

foreach my $version (0, 1)
{
	mkdir "$dir/$version" or die "cannot make a folder: $!";
	write_pages("$dir/$version", $N, sub { "Customer $_[0] GmbH, version $version" });
}
symlink "$dir/0", "$dir/now" or die "cannot link: $!";
my $node = pages_cluster('apply', "$dir/now");

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

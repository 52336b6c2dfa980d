# Pulling a list of customers into the canonical table, against a typed upsert of the same pages.
#
# bench: pull.vs_upsert pull.unchanged
#
# The system is an nginx that serves pages of 100 customers as files, in Stripe's words. Ours is
# everything between the request for the first page and the commit of the last: HTTP, the shipped
# mapping, identity by number, canonical.customer with its indexes and with capture, external ids,
# mirror and cursor. The peer has its pages at hand: on one connection it sends each as the parameter
# of a prepared INSERT … SELECT FROM jsonb_to_recordset … ON CONFLICT DO UPDATE, one commit a page,
# into a table with the same columns, checks, foreign keys, indexes and touch trigger. Both begin with
# empty tables and have default settings.
use strict;
use warnings;

use SyncExt::Bench;
use SyncExt::Pages;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils ();

my $N = 20_000;
my $dir = PostgreSQL::Test::Utils::tempdir('pages');
my $upsert_bare = abs_path(dirname(__FILE__)) . '/upsert_bare';

# The peer has all pages as lines.
open my $all, '>', "$dir/all" or die "cannot write: $!";
write_pages($dir, $N, sub { "Customer $_[0] GmbH" }, sub { print $all "$_[0]\n" });
close $all or die "cannot write: $!";

my $node = pages_cluster('pull', $dir);

$node->sql(q{
	CREATE TABLE peer (LIKE canonical.customer INCLUDING ALL);
	ALTER TABLE peer ADD FOREIGN KEY (currency) REFERENCES canonical.currency (code),
		ADD FOREIGN KEY (legal_entity_id) REFERENCES canonical.legal_entity (id),
		ADD FOREIGN KEY (merged_into_id) REFERENCES peer (id),
		ADD FOREIGN KEY (parent_id) REFERENCES peer (id);
	CREATE TRIGGER touch_updated_at BEFORE UPDATE ON peer
		FOR EACH ROW EXECUTE FUNCTION canonical.touch_updated_at()});

# Tables as they were at the beginning; capture refuses TRUNCATE, so its trigger is passed by.
sub empty_tables
{
	$node->sql(q{
		SET client_min_messages = error;
		SET session_replication_role = replica;
		TRUNCATE canonical.customer CASCADE;
		TRUNCATE sync.mirror, sync.external_id, peer;
		CHECKPOINT});
	return;
}

# Rows a second of a walk over everything, by a stream that has seen nothing yet.
sub pull_rate
{
	my ($changed) = @_;
	my $cursor = q(sync.stream_cursor c JOIN sync.stream s ON s.id = c.stream_id AND s.state = 'active');

	$node->sql(q(SELECT sync.drop_stream('billing', 'customer') FROM sync.stream WHERE state = 'active';
		SELECT sync.create_stream('billing', 'customer');
		SELECT sync.request_pull('billing', 'customer')));
	$node->poll_until("SELECT c.finished_at >= c.started_at FROM $cursor", 120);
	my ($seconds, $records, $applied) = split /\|/, $node->sql(
		"SELECT extract(epoch FROM c.finished_at - c.started_at), c.records, c.applied FROM $cursor");
	die "$records records and $applied applied" if $records != $N || $applied != $changed;
	return $N / $seconds;
}

my $STATEMENT = <<'SQL';
INSERT INTO peer AS t (name, billing_email, tax_exempt, billing_address, number)
SELECT coalesce(r.name, r.email, r.id), r.email, r.tax_exempt, jsonb_strip_nulls(r.address), r.metadata ->> 'number'
  FROM jsonb_to_recordset($1::jsonb -> 'data')
       r (id text, name text, email text, tax_exempt text, address jsonb, metadata jsonb)
ON CONFLICT (number) DO UPDATE SET name = excluded.name, billing_email = excluded.billing_email,
   tax_exempt = excluded.tax_exempt, billing_address = excluded.billing_address
SQL

sub upsert_rate
{
	my $connection = 'dbname=hub user=postgres host=' . $node->host . ' port=' . $node->port;

	open my $pipe, '-|', $upsert_bare, $connection, $STATEMENT, "$dir/all" or die "cannot run: $!";
	my $rate = <$pipe>;
	close $pipe or die 'upsert_bare failed';
	return 0 + $rate;
}

empty_tables();
pull_rate($N);
my (@pulled, @unchanged);
my $cpu = 0;
my @pairs = interleave(
	5,
	sub {
		my $pid = hub_pid($node);

		empty_tables();
		$cpu -= cpu_seconds($pid);
		push @pulled, pull_rate($N);
		$cpu += cpu_seconds($pid);
		push @unchanged, pull_rate(0);
		return $pulled[-1];
	},
	sub { empty_tables(); return upsert_rate() });

note('rows/s, pull/upsert: ' . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
note(sprintf 'the hub took %.1f us of processor time a row, HTTP included', $cpu * 1e6 / (5 * $N));
report('pull.vs_upsert', [ ratios(@pairs) ], '>=', 0.5) if wanted('pull.vs_upsert');
note('rows/s when all are equal: ' . join ', ', map { sprintf '%d', $_ } @unchanged);
report('pull.unchanged', [ map { $unchanged[$_] / $pulled[$_] } 0 .. $#pulled ], '>=', 3, 'x')
  if wanted('pull.unchanged');
$node->stop;

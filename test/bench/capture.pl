# What capture costs an application: single rows and a bulk load into canonical.customer with its
# shipped indexes and checks, against the same table of a second canonical model that is not tracked.
#
# bench: capture.single.tps_ratio capture.bulk.ratio capture.with_ownership
#
# Single: pgbench, 4 clients, prepared statements, synchronous_commit off. The hub runs, and no route
# wants the object. Bulk: one INSERT … SELECT, synchronous_commit off, with one route to a system that
# is paused; then (a note) the same with a system that takes what it is given.
# Ownership: a captured table of which every field is owned, but for one that the application changes
# while it writes all others back, against the same table without owners.
use strict;
use warnings;

use SyncExt::Bench;

my $ROWS = long() ? 1_000_000 : 200_000;
my $sink = start_nginx(<<'NGINX');
location / {
	default_type application/json;
	return 200 '{"id": "cus_$request_id", "object": "customer", "livemode": false}';
}
NGINX
my $node = bench_cluster('capture', allow => $sink, conf => "synchronous_commit = off\nautovacuum = off\n");

$node->secret('billing', 'api_key', 'sk_test_bench');
$node->sql(qq{
	SELECT sync.create_canonical_model();
	SELECT sync.create_canonical_model('untracked');
	SELECT sync.track('canonical.customer', on_truncate => 'record');
	SELECT sync.register_connector('stripe');
	CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'stripe', base_url '$sink', rate_limit '1000000/s');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key')});

sub tps { return customer_tps($node, @_) }

sub bulk_seconds
{
	my ($schema) = @_;

	$node->sql("TRUNCATE $schema.customer CASCADE");
	return seconds(
		sub {
			$node->sql(qq{
				INSERT INTO $schema.customer (number, name, billing_email, billing_address)
				SELECT 'C-' || i, 'Customer ' || i, 'c' || i || '\@example.com',
					jsonb_build_object('line1', i || ' High Street', 'city', 'Leeds', 'postal_code', 'LS1 1AA', 'country', 'GB')
				FROM generate_series(1, $ROWS) i}, timeout => 600);
		});
}

if (wanted('capture.single.tps_ratio'))
{
	tps($_, 2) foreach qw(canonical untracked);
	my @pairs = interleave(long() ? 15 : 7, sub { tps('canonical', 3) }, sub { tps('untracked', 3) });

	report('capture.single.tps_ratio', [ ratios(@pairs) ], '>=', 0.70);
	note(sprintf 'transactions/s: %.0f with capture, %.0f without (medians)',
		median(map { $_->[0] } @pairs), median(map { $_->[1] } @pairs));
}
if (wanted('capture.bulk.ratio'))
{
	$node->sql(q(SELECT sync.create_route('billing', 'customer'), sync.pause('billing')));
	bulk_seconds($_) foreach qw(canonical untracked);
	my @pairs = interleave(5, sub { bulk_seconds('canonical') }, sub { bulk_seconds('untracked') });

	report('capture.bulk.ratio', [ ratios(@pairs) ], '<=', 2.2);
	note(sprintf '%d rows: %.2f s with capture, %.2f s without (medians)', $ROWS, median(map { $_->[0] } @pairs),
		median(map { $_->[1] } @pairs));

	# The hub begins to deliver with the first load's commit, and has not ended by the last.
	$node->sql(q(SELECT sync.resume('billing')));
	@pairs = interleave(3, sub { bulk_seconds('canonical') }, sub { bulk_seconds('untracked') });
	note(sprintf 'while the hub delivers (ratio, 3 pairs): %.2f', median(ratios(@pairs)));
}
if (wanted('capture.with_ownership'))
{
	# Two canonical models that are both captured; of one, each field but one belongs to a system.
	$node->sql(q{
		SELECT sync.create_canonical_model('free');
		SELECT sync.track('free.customer', 'free_customer', on_truncate => 'record');
		SELECT sync.create_canonical_model('owned');
		SELECT sync.track('owned.customer', 'owned_customer', on_truncate => 'record');
		SELECT count(sync.set_owner('owned_customer', a.attname::text, 'billing'))
		  FROM pg_attribute a
		 WHERE a.attrelid = 'owned.customer'::regclass AND a.attnum > 0 AND a.attgenerated = ''
		   AND a.attname NOT IN ('id', 'payment_terms_days', 'updated_at')});

	my @fields = split /,/, $node->value(q{
		SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
		 WHERE attrelid = 'free.customer'::regclass AND attnum > 0 AND attgenerated = ''
		   AND attname NOT IN ('id', 'payment_terms_days', 'updated_at')});
	my $written_back = join ', ', map { "$_ = t.$_" } @fields;
	my $updates = 0;

	foreach my $schema (qw(free owned))
	{
		# As the system would have brought them: past the owners.
		$node->sql(qq{
			SET session_replication_role = replica;
			INSERT INTO $schema.customer (kind, number, name, billing_email, billing_address)
			SELECT 'organization', 'C-' || i, 'Customer ' || i, 'c' || i || '\@example.com',
				jsonb_build_object('line1', i || ' High Street', 'city', 'Leeds', 'postal_code', 'LS1 1AA', 'country', 'GB')
			FROM generate_series(1, 20000) i});
	}

	# As an ORM saves: every column, of which one differs.
	my $update_seconds = sub {
		my ($schema) = @_;
		my $n = ++$updates;

		$node->sql("VACUUM $schema.customer");
		return seconds(sub { $node->sql("UPDATE $schema.customer t SET payment_terms_days = $n, $written_back", timeout => 600) });
	};

	$update_seconds->($_) foreach qw(free owned);
	my @pairs = interleave(long() ? 15 : 7, sub { $update_seconds->('free') }, sub { $update_seconds->('owned') });

	# Rates: what passes with the checks as a share of what passes without.
	report('capture.with_ownership', [ ratios(@pairs) ], '>=', 0.90);
	note(sprintf '20000 updates: %.2f s with %d owned fields, %.2f s without owners (medians)',
		median(map { $_->[1] } @pairs), scalar @fields, median(map { $_->[0] } @pairs));

	# The same with a trigger that can undo what it finds.
	$node->sql(q{SELECT sync.set_owner('owned_customer', 'name', 'billing', 'ignore')});
	@pairs = interleave(5, sub { $update_seconds->('free') }, sub { $update_seconds->('owned') });
	note(sprintf 'one of the fields by on_violation => ignore (ratio, 5 pairs): %.2f', median(ratios(@pairs)));

	# New records, of which an application may give the name and the terms.
	my $insert_seconds = sub {
		my ($schema) = @_;

		return seconds(sub { $node->sql("INSERT INTO $schema.customer (name, payment_terms_days) SELECT 'Customer', 30 FROM generate_series(1, 20000)") });
	};

	$node->sql(q{SELECT sync.drop_owner('owned_customer', 'name')});
	$insert_seconds->($_) foreach qw(free owned);
	@pairs = interleave(7, sub { $insert_seconds->('free') }, sub { $insert_seconds->('owned') });
	note(sprintf 'inserts (ratio, 7 pairs): %.2f', median(ratios(@pairs)));
}

# How long the lineage of one record takes among many attempts, and a trace by its correlation id.
#
# bench: lineage.of_1m
# bench: lineage.of_10m
# bench: lineage.trace
#
# A million attempts with their outcomes, ten million under LONG=1 (or by name), in partitions of 88 days, eight for a
# record on average, at random; a share of them in the outbox of the last days. A record has its row, a
# subscription with an invoice and a journal, and a binding. Milliseconds of a call in a session that has made one
# before; a note says what the first one takes, which plans for all partitions.
use strict;
use warnings;

use SyncExt::Bench;

my $attempts = long() || ($ENV{NAME} // '') eq 'lineage.of_10m' ? 10_000_000 : 1_000_000;
my $days = 88;
my $line = $attempts > 1_000_000 ? 'lineage.of_10m' : 'lineage.of_1m';
my $node = bench_cluster('lineage', conf => "wal_level = minimal\nmax_wal_senders = 0\nautovacuum = off\n"
	  . "maintenance_work_mem = 1GB\nsynchronous_commit = off\nsync_ext.enabled = off\n");

$node->sql(q{SELECT sync.create_canonical_model();
	SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{customer,subscription,invoice,gl_entry}'::text[]) t;
	SELECT sync.register_connector('{"manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
		"auth": {"type": "none"}, "objects": {"customer": {"push": {"operations": {"create": {"method": "POST", "path": "/c", "response": {"remote_id": "$.id"}}}}}}}');
	CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'paused');
	SELECT sync.create_route('crm', 'customer');
	CREATE FUNCTION public.record(n bigint) RETURNS text LANGUAGE sql IMMUTABLE RETURN md5(n::text)::uuid::text});

# As the hub's partitions are, but filled before they are indexed.
sub fill
{
	my ($parent, $day, $rows) = @_;

	$node->sql(qq{BEGIN;
		SELECT '${parent}_p' || to_char(now() AT TIME ZONE 'UTC' - interval '$day days', 'YYYYMMDD') AS child,
			date_trunc('day', now(), 'UTC') - interval '$day days' AS from, date_trunc('day', now(), 'UTC') - interval '@{[ $day - 1 ]} days' AS until \\gset
		CREATE TABLE sync.:child (LIKE sync.$parent INCLUDING ALL);
		INSERT INTO sync.:child $rows;
		SELECT sync._index_partition('$parent', :'child');
		ANALYZE sync.:child;
		ALTER TABLE sync.$parent ATTACH PARTITION sync.:child FOR VALUES FROM (:'from') TO (:'until');
		COMMIT});
	return;
}
my $each = int($attempts / $days) + 1;
my $records = int($attempts / 8);

foreach my $day (1 .. $days)
{
	my $from = $day * $each;

	# Attempt and outcome of a number fall on the same second; one in twenty carries an application's id.
	fill('claim', $day, qq{(attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, idempotency_key, connector_id, method, target, request_hash, request, context)
		SELECT n, :'from'::timestamptz + (n - $from) * interval '1 day' / $each, 1, n, 1, :'from', 1, record(abs(hashint8(n)) % $records), 1, 1, 'create', 'sync_' || n, 1, 'POST', '/c',
			decode(md5(n::text), 'hex'), repeat('x', 300), CASE WHEN n % 20 = 0 THEN jsonb_build_object('actor', 'ada', 'correlation_id', 'ORDER-' || n / 100) END
		  FROM generate_series($from, $from + $each - 1) n});
	fill('outcome', $day, qq{(attempt_id, at, route_id, seq, final, outcome, state, status, latency_us, request_id)
		SELECT n, :'from'::timestamptz + (n - $from) * interval '1 day' / $each, 1, n, true, 'done', 'done', 200, 12000, 'req_' || n
		  FROM generate_series($from, $from + $each - 1) n});
	fill('outbox', $day, qq{(seq, at, xid, incarnation, object_id, op, origin, record_id, body, context)
		SELECT n, :'from'::timestamptz, '3', 1, 1, 'U', 0, record(abs(hashint8(n)) % $records), jsonb_build_object('number', n), CASE WHEN n % 20 = 0 THEN jsonb_build_object('actor', 'ada', 'correlation_id', 'ORDER-' || n / 100) END
		  FROM generate_series($from, $from + $each - 1) n}) if $day <= 7;
}
$node->sql(qq{
	SET session_replication_role = replica;
	INSERT INTO canonical.customer (id, number, name) SELECT record(n)::uuid, 'C-' || n, 'Customer ' || n FROM generate_series(0, 999) n;
	INSERT INTO canonical.subscription (id, customer_id, number, status, currency, mrr) SELECT record(n)::uuid, record(n)::uuid, 'S-' || n, 'active', 'EUR', 100 FROM generate_series(0, 999) n;
	INSERT INTO canonical.invoice (id, customer_id, subscription_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount, amount_due)
		SELECT record(n)::uuid, record(n)::uuid, record(n)::uuid, 'INV-' || n, 'open', '2026-01-01', 'EUR', 100, 0, 100, 100 FROM generate_series(0, 999) n;
	INSERT INTO canonical.gl_entry (id, number, currency, source_object, source_id) SELECT record(n)::uuid, 'J-' || n, 'EUR', 'invoice', record(n)::uuid FROM generate_series(0, 999) n;
	INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT 1, 1, record(n), 'r' || n FROM generate_series(0, 999) n;
	INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
		SELECT 1, 1, pg_current_snapshot(), s, pg_current_snapshot(), s, s FROM (SELECT $attempts * 2 AS s) s;
	VACUUM ANALYZE});
my ($measured) = $node->sql('SELECT count(*) FROM sync.claim');
$measured >= $attempts or die "only $measured attempts";

# Milliseconds of calls in one session, the first one before them.
sub times_of
{
	my ($call, $n) = @_;
	my @ms = split /\n/, $node->sql(qq{
		CREATE FUNCTION pg_temp.times() RETURNS SETOF numeric LANGUAGE plpgsql AS \$\$
		DECLARE
			began timestamptz;
			rows bigint;
		BEGIN
			FOR i IN 0 .. $n LOOP
				began := clock_timestamp();
				$call
				RETURN NEXT round(extract(epoch FROM clock_timestamp() - began) * 1000, 3);
				IF rows < 4 THEN
					RAISE 'only % rows', rows;
				END IF;
			END LOOP;
		END \$\$;
		SELECT pg_temp.times()});

	return @ms;
}
my %call = (
	$line => "SELECT count(*) INTO rows FROM sync.lineage('customer', record(i));",
	'lineage.trace' => "SELECT count(*) INTO rows FROM sync.trace('ORDER-' || ($each + 100 + i * 100) / 100);");
foreach my $name (sort keys %call)
{
	next if !wanted($name);
	my ($first, @ms) = times_of($call{$name}, 200);
	my @sorted = sort { $a <=> $b } @ms;

	report($name, \@ms, '<=', 10);
	note(sprintf '%s: %d attempts in %d partitions; p50 %.1f ms, p99 %.1f ms, the first call of a session %.0f ms', $name, $attempts, $days, median(@ms), $sorted[ 0.99 * @sorted ], $first);
}

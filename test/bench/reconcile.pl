# What a comparison of a million records takes.
#
# bench: reconcile.full.vs_join
# bench: reconcile.delta
#
# A user's table of a million rows of eight columns with a uuid key, pushed to and pulled
# from a system, with as many mirrors and external ids, in another order than the table, ten of which say
# another amount. `reconcile.full.vs_join` is seconds of sync.reconcile() in mode mirror, which finds these ten
# and writes counts and amounts by month and currency, ÷ seconds of a full join of that table and one of the
# mirrors' values with their types, in the mirrors' order, that counts the rows that differ.
# `reconcile.delta` is seconds of mode delta after a pull that changed 1 000 of them ÷ mode mirror. Nothing
# else runs; both sides may use parallel workers.
use strict;
use warnings;

use SyncExt::Bench;

my $records = 1_000_000;
my $changed = 1_000;
my $wrong = 10;
my $node = bench_cluster('reconcile', conf => "autovacuum = off\nwork_mem = 64MB\nsynchronous_commit = off\nsync_ext.enabled = off\n");

$node->sql(q{SELECT sync.register_connector($json$ {
	"manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
	"objects": {"invoice": {
		"push": {"operations": {"create": {"method": "POST", "path": "/i", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}},
		"pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id"},
			"fields": {"id": "$.key", "number": "$.number", "customer": "$.customer", "issue_date": "$.date", "currency": "$.currency",
				"total_amount": "$.total", "paid": "$.paid", "settled_at": "$.settled"}}}}} $json$::jsonb);
	CREATE SCHEMA bench;
	CREATE TABLE bench.invoice (id uuid PRIMARY KEY, number text NOT NULL, customer text NOT NULL, issue_date date NOT NULL, currency text NOT NULL,
		total_amount numeric NOT NULL, paid boolean NOT NULL, settled_at timestamptz);
	CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
	SELECT sync.track('bench.invoice', object => 'invoice');
	SELECT sync.create_stream('billing', 'invoice');
	UPDATE sync.stream_cursor SET read_until = clock_timestamp();
	SELECT sync.create_route('billing', 'invoice', start => 'all', cutover_date => '2026-01-01')});
$node->sql(qq{SET session_replication_role = replica;
	INSERT INTO bench.invoice
		SELECT md5(n::text)::uuid, 'INV-' || n, 'Customer ' || n / 8, date '2026-01-01' + n % 300, (ARRAY['EUR', 'USD', 'GBP'])[1 + n % 3],
			(n % 100000) / 100.0, n % 4 > 0, CASE WHEN n % 4 > 0 THEN timestamptz '2026-01-01 08:00:00Z' + n * interval '1 s' END
		  FROM generate_series(1, $records) n;
	CREATE TABLE bench.theirs (LIKE bench.invoice, remote_id text);
	INSERT INTO bench.theirs
		SELECT i.id, i.number, i.customer, i.issue_date, i.currency, i.total_amount + CASE WHEN r.n % ($records / $wrong) = 0 THEN 1 ELSE 0 END, i.paid, i.settled_at, 'in_' || lpad(r.n::text, 8, '0')
		  FROM (SELECT i.*, row_number() OVER (ORDER BY md5(i.number)) AS n FROM bench.invoice i) r JOIN bench.invoice i USING (id) ORDER BY r.n;
	ALTER TABLE bench.theirs ADD PRIMARY KEY (id);
	INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields, raw)
		SELECT y.id, o.id, t.remote_id, t.id::text, to_jsonb(t) - 'remote_id', NULL FROM sync.system y, sync.object o, bench.theirs t WHERE y.name = 'billing' AND o.name = 'invoice' ORDER BY t.remote_id;
	INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT m.system_id, m.object_id, m.record_id, m.remote_id FROM sync.mirror m;
	ALTER TABLE bench.theirs DROP remote_id});
$node->sql('VACUUM ANALYZE');

my $join = q{SELECT count(*) FROM bench.invoice o FULL JOIN bench.theirs t ON t.id = o.id
	WHERE ROW(o.id, o.number, o.customer, o.issue_date, o.currency, o.total_amount, o.paid, o.settled_at)
		IS DISTINCT FROM ROW(t.id, t.number, t.customer, t.issue_date, t.currency, t.total_amount, t.paid, t.settled_at);};

# Seconds of statements in a session that has done the same before, or something small of the kind; they
# must say `expected`.
sub took
{
	my ($before, $sql, $expected) = @_;
	my ($answer, $seconds) = (split /\n/, $node->sql("$before\nSELECT extract(epoch FROM clock_timestamp()) AS began \\gset\n$sql\n"
		  . "SELECT extract(epoch FROM clock_timestamp()) - :began;"))[ -2, -1 ];

	$answer eq $expected or die "$sql says $answer, not $expected";
	return $seconds;
}

sub join_them { return took($join, $join, $wrong) }

my $warm = q(SELECT sync.reconcile('billing', 'invoice', mode => 'delta') AS run \gset);

sub reconcile
{
	my ($mode, $pull) = @_;

	return took($warm . ($pull // ''), "SELECT sync.reconcile('billing', 'invoice', mode => '$mode') AS run \\gset\n"
		  . "SELECT format('%s %s', r.checked, r.found) FROM sync.reconciliation_run r WHERE r.id = :run;",
		($mode eq 'mirror' ? $records : $changed + $wrong) . " $wrong");
}

# A pull of so many changed records, none of them one of the ten.
my $round = 0;

sub pull
{
	my $from = ++$round * 2 * $changed;

	return qq{
		SELECT applied FROM sync._apply_page((SELECT t.id FROM sync.stream t),
			(SELECT jsonb_agg(jsonb_build_object('id', m.remote_id, 'key', m.record_id, 'number', m.fields -> 'number', 'customer', 'Somebody else',
				'date', m.fields -> 'issue_date', 'currency', m.fields -> 'currency', 'total', m.fields -> 'total_amount', 'paid', m.fields -> 'paid', 'settled', m.fields -> 'settled_at'))
			   FROM (SELECT i.* FROM sync.mirror i WHERE i.system_id = (SELECT t.system_id FROM sync.stream t) AND i.remote_id > 'in_' || lpad(($from)::text, 8, '0')
			            AND substr(i.remote_id, 4)::integer % ($records / $wrong) <> 0 ORDER BY i.remote_id LIMIT $changed) m));};
}

$node->sql(q(SELECT sync.reconcile('billing', 'invoice')));
report('reconcile.full.vs_join', [ ratios(interleave(5, sub { reconcile('mirror') }, \&join_them)) ], '<=', 1.5) if wanted('reconcile.full.vs_join');
if (wanted('reconcile.delta'))
{
	my @pairs = interleave(5, sub { reconcile('delta', pull()) }, sub { reconcile('mirror') });

	report('reconcile.delta', [ ratios(@pairs) ], '<=', 0.02);
	note(sprintf '%d changed of %d records: mirror %.2f s, delta %.3f s', $changed, $records, map { median(@$_) } [ map { $_->[1] } @pairs ], [ map { $_->[0] } @pairs ]);
}

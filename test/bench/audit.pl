# What sealing costs those who write audit rows: acts a second with the sealer at work, against the same
# while somebody holds its lock.
#
# bench: audit.tps_ratio
#
# pgbench, 4 clients, each transaction an act that changes one row and writes one audit row, with commits
# that wait for the disk. The hub runs on the same machine, so what it needs of the processor counts, too.
use strict;
use warnings;

use PostgreSQL::Test::Utils ();
use SyncExt::Bench;

my $dir = PostgreSQL::Test::Utils::tempdir('pgbench');
my $node = bench_cluster('audit', conf => "sync_ext.audit_anchor_dir = '$dir'\nautovacuum = off\n");

$node->sql(q{
	CREATE TABLE own_act (id int PRIMARY KEY, done int NOT NULL DEFAULT 0) WITH (fillfactor = 50);
	INSERT INTO own_act SELECT i, 0 FROM generate_series(1, 1000) i});
open my $file, '>', "$dir/act.sql" or die "cannot write: $!";
print $file <<'SQL';
\set id random(1, 1000)
BEGIN;
UPDATE own_act SET done = done + 1 WHERE id = :id;
SELECT sync._audit('test.done', 'invoice', :id::text, 'erp', '{"amount": 1234.50, "currency": "EUR", "number": "INV-4711"}', 'month end');
COMMIT;
SQL
close $file;

my $sealed = 'SELECT NOT EXISTS (SELECT FROM sync.audit_trail WHERE NOT sealed)';

sub tps
{
	my ($seconds) = @_;
	my ($out, $err) = PostgreSQL::Test::Utils::run_command(
		[
			'pgbench', '-n', '-M', 'prepared', '-c', 4, '-j', 2, '-T', $seconds, '-h', $node->host, '-p', $node->port,
			'-f', "$dir/act.sql", $node->database
		]);
	my ($tps) = $out =~ /^tps = ([\d.]+)/m or die "no rate from pgbench: $err";

	return $tps;
}

# The sealer does not wait for its lock, so whoever holds it keeps it from its work.
sub tps_unsealed
{
	my ($seconds) = @_;
	my $holder = $node->background_psql($node->database);

	$holder->query_safe(q(SELECT pg_advisory_lock(hashtextextended('sync.audit_seal', 0))));
	my $tps = tps($seconds);
	$holder->quit;
	# What has piled up is sealed before the clock runs again.
	$node->poll_until($sealed, 60);
	return $tps;
}

if (wanted('audit.tps_ratio'))
{
	tps(2);
	my @pairs = interleave(long() ? 15 : 7, sub { tps(4) }, sub { tps_unsealed(4) });

	$node->poll_until($sealed, 60);
	my ($rows, $seals) = split /\|/, $node->sql('SELECT sum(cardinality(ids)), count(*) FROM sync.audit_seal');
	report('audit.tps_ratio', [ ratios(@pairs) ], '>=', 0.95);
	note(sprintf 'acts/s: %.0f with the sealer, %.0f without (medians); %d rows in %d seals', median(map { $_->[0] } @pairs),
		median(map { $_->[1] } @pairs), $rows, $seals);
	my ($status) = $node->sql(q(SELECT status FROM sync.verify_audit() WHERE status IN ('ok', 'broken')));
	$status eq 'ok' or die 'the trail does not verify';
}

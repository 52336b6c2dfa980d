# The audit trail on a running hub: sealed and anchored within seconds, whatever commits late or dies
# in between; financial deliveries are in it; a superuser who attacks it is named; a dump takes it along.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use PostgreSQL::Test::Utils;
use SyncExt::Cluster;
use SyncExt::Hub;
use Test::More;

my $anchors = PostgreSQL::Test::Utils::tempdir('anchors');
my $hub = SyncExt::Hub->new('audit', systems => ['crm'], conf => "sync_ext.audit_anchor_dir = '$anchors'\n");
my $node = $hub->node;

sub verified { return $hub->value('SELECT status FROM sync.verify_audit() ORDER BY status = $$unsealed$$ LIMIT 1') }
sub anchor_file { return (glob "$anchors/*.anchors")[0] }
sub anchor_lines { return defined anchor_file() ? split(/\n/, slurp_file(anchor_file())) : () }

# Sealed, and the head of the chain is in the file.
sub wait_anchored
{
	$hub->poll_until(q(SELECT NOT EXISTS (SELECT FROM sync.audit_trail WHERE NOT sealed)), 20);
	my $head = $hub->value(q(SELECT encode(hash, 'hex') FROM sync.audit_seal ORDER BY id DESC LIMIT 1));
	$hub->wait_until('the anchor', sub { grep { /hash=$head/ } anchor_lines() }, 20);
	return;
}

# In a transaction that is then undone: what a verification says of an attack.
sub attacked
{
	my ($attack, $anchor) = @_;
	my ($found) = grep { !/^(UPDATE|DELETE|INSERT|BEGIN|SET|ROLLBACK)/ } split /\n/, $hub->sql(
		"BEGIN; SET LOCAL session_replication_role = replica; $attack;
		 SELECT status || ' ' || audit_id FROM sync.verify_audit($anchor) WHERE audit_id IS NOT NULL ORDER BY audit_id LIMIT 1;
		 ROLLBACK");

	return $found // 'nothing';
}

# ---- within seconds ----

is($hub->value(q(SELECT count(*) FROM sync.audit WHERE action IN ('hub.adopted', 'system.created', 'system.credentials', 'route.created'))), 4,
	'setting up has left its rows');
wait_anchored();
is(verified(), 'ok', 'they are sealed and anchored');
is((stat anchor_file())[2] & 07777 & 0027, 0, 'the file is nobody else\'s');
my $log = slurp_file($node->logfile);
like($log, qr/LOG:  sync_ext audit anchor: hub=\S+ incarnation=1 seal=\d+ .* hash=[0-9a-f]{64}$/m, 'the head is in the server log, too');

# ---- a transaction that commits after younger ones were sealed ----

my $late = $node->background_psql('hub');
$late->query_safe('BEGIN');
$late->query_safe(q(SELECT sync.pause('crm', 'late')));
$hub->sql(q(SELECT sync._audit('test.early', NULL, 'x')));
$hub->sql(qq(BEGIN; SELECT sync._audit('test.prepared', NULL, 'x'); PREPARE TRANSACTION 'audit'));
$hub->poll_until(q(SELECT sealed FROM sync.audit_trail WHERE action = 'test.early'), 20);
is($hub->value(q(SELECT count(*) FROM sync.audit WHERE action = 'system.paused')), 0, 'the older one is still open');
$late->query_safe('COMMIT');
$hub->poll_until(q(SELECT sealed FROM sync.audit_trail WHERE action = 'system.paused'), 20);
is($hub->value(q(SELECT p.id < e.id FROM sync.audit p, sync.audit e WHERE p.action = 'system.paused' AND e.action = 'test.early')), 't',
	'a row that committed late, with the lower id, is in a later seal');
$hub->sql(q(COMMIT PREPARED 'audit'));
$hub->poll_until(q(SELECT sealed FROM sync.audit_trail WHERE action = 'test.prepared'), 20);
is(verified(), 'ok', 'and all is well');
$late->quit;
$hub->sql(q(SELECT sync.resume('crm')));

# Two that were open when a seal was made, and are together too many for the next one.
my @pair = map { $node->background_psql('hub') } 1 .. 2;
$_->query_safe(q(BEGIN; SELECT count(sync._audit('test.pair', NULL, n::text)) FROM generate_series(1, 600) n)) foreach @pair;
$hub->sql(q(SELECT sync._audit('test.between', NULL, 'x')));
$hub->poll_until(q(SELECT sealed FROM sync.audit_trail WHERE action = 'test.between'), 20);
my $holder = $node->background_psql('hub');
$holder->query_safe(q(SELECT pg_advisory_lock(hashtextextended('sync.audit_seal', 0))));
$_->query_safe('COMMIT') foreach @pair;
$_->quit foreach $holder, @pair;
wait_anchored();
is($hub->value(q(SELECT count(*) FROM sync.audit_seal s, unnest(s.ids) i JOIN sync.audit a ON a.id = i WHERE a.action = 'test.pair')), 1200,
	'each of two that committed late is in a seal');
is(verified(), 'ok', 'and all is well');

# ---- the hub dies before the seal commits, and before its anchor is written ----

foreach my $point (qw(seal-making seal-made))
{
	wait_anchored();
	my $offset = $hub->log_size;

	$hub->arm($point, 'kill');
	$hub->sql_before_crash("SELECT sync._audit('test.crash', NULL, '$point')");
	$hub->wait_crash($point, $offset);
	wait_anchored();
	is($hub->value(qq(SELECT count(*) FROM sync.audit_seal s, unnest(s.ids) i JOIN sync.audit a ON a.id = i WHERE a.record_id = '$point')), 1,
		"$point: the row is sealed once");
	is(verified(), 'ok', "$point: the chain goes on");
}
is(scalar(grep { !/^sync_ext audit anchor: .* marks=[0-9a-f]+$/ } anchor_lines()), 0, 'every line of the file is whole');
my %seen;
is(scalar(grep { /seal=(\d+)/ && $seen{$1}++ } anchor_lines()), 0, 'no seal was anchored twice');
is(join(',', sort { $a <=> $b } keys %seen), $hub->value(q(SELECT string_agg(id::text, ',' ORDER BY id) FROM sync.audit_seal)), 'and none left out');

# ---- an anchor that cannot be written ----

rename $anchors, "$anchors.gone" or die "cannot rename: $!";
$hub->sql(q(SELECT sync._audit('test.unanchored', NULL, 'x')));
$hub->poll_until(q(SELECT EXISTS (SELECT FROM sync.health() WHERE "check" = 'notice audit' AND status = 'error')));
is($hub->value(q(SELECT status FROM sync.health() WHERE "check" = 'audit')), 'ok', 'rows are sealed all the same');
rename "$anchors.gone", $anchors or die "cannot rename: $!";
wait_anchored();
$hub->poll_until(q(SELECT NOT EXISTS (SELECT FROM sync.health() WHERE "check" = 'notice audit')));
%seen = ();
$seen{$_}++ foreach map { /seal=(\d+)/ } anchor_lines();
is(join(',', sort { $a <=> $b } keys %seen), $hub->value(q(SELECT string_agg(id::text, ',' ORDER BY id) FROM sync.audit_seal)), 'what was missing is made up for');

# ---- financial deliveries ----

$hub->write('no money');
$hub->wait_idle;
is($hub->value(q(SELECT count(*) FROM sync.audit WHERE action LIKE 'delivery.%')), 0, 'other deliveries leave no rows');
$hub->sql(q(UPDATE sync.object SET financial = true));
my $id = $hub->new_id;
$hub->sql("SET sync_ext.actor = 'ann'; SET sync_ext.correlation_id = 'case 7'; " . $hub->insert_sql($id, 'Money', number => 'INV-1'));
$hub->rename($id, 'Money 2');
$hub->wait_idle;
is($hub->sql(qq(SELECT action, detail ->> 'operation', detail ->> 'number', system, session_user_name, actor, correlation_id FROM sync.audit
	WHERE record_id = '$id' ORDER BY id)), "delivery.done|insert|INV-1|crm|sync_worker|ann|case 7\ndelivery.done|update|INV-1|crm|sync_worker||",
	'each financial delivery has its row when it has ended');
is($hub->value(qq(SELECT bool_and(o.xmin = a.xmin AND c.attempt_id = (a.detail ->> 'attempt')::bigint
		AND encode(c.request_hash, 'hex') = a.detail ->> 'request_sha256' AND x.remote_id = a.detail ->> 'remote_id')
	FROM sync.audit a JOIN sync.outcome o ON o.final AND o.route_id || '/' || o.seq = a.detail ->> 'delivery'
	JOIN sync.claim c ON c.route_id = o.route_id AND c.seq = o.seq AND c.attempt_id = o.attempt_id
	JOIN sync.external_id x ON x.record_id = a.record_id WHERE a.record_id = '$id')), 't',
	'written in the transaction of its outcome, with the request that was sent');
wait_anchored();
is($hub->value(q(SELECT bool_and(sealed) FROM sync.audit_trail WHERE action LIKE 'delivery.%')), 't', 'and sealed');

# ---- a superuser ----

my $victim = $hub->value(q(SELECT min(id) FROM sync.audit WHERE action = 'delivery.done'));
is(attacked("UPDATE sync.audit SET detail = detail - 'number' WHERE id = $victim", 'NULL'), "altered $victim", 'a changed row is named');
is(attacked("DELETE FROM sync.audit WHERE id = $victim", 'NULL'), "removed $victim", 'a removed row is named');
is(attacked("INSERT INTO sync.audit (id, at, xid, action) SELECT 900000, at, xid, 'approval.granted' FROM sync.audit WHERE id = $victim", 'NULL'),
	'forged 900000', 'a forged row is named');
my $cut = "DELETE FROM sync.audit a WHERE a.id >= $victim;
	DELETE FROM sync.audit_seal s WHERE EXISTS (SELECT FROM unnest(s.ids) i WHERE i >= $victim)";
is($hub->value("SELECT count(*) FROM sync.audit_seal s WHERE EXISTS (SELECT FROM unnest(s.ids) i WHERE i < $victim)
	AND EXISTS (SELECT FROM unnest(s.ids) i WHERE i >= $victim)"), 0, '(the victim is the first of its seal)');
is(attacked($cut, 'NULL'), "cut off $victim", 'the first row of a tail that was cut off with its seals is named, by the file');
my ($kept) = grep { /ids=$victim\b/ } anchor_lines();
is(attacked($cut, "\$\$$kept\$\$"), "cut off $victim", '… and by a line that an auditor has kept');

# While the hub stands still, so that it seals nothing of it.
my $copy = slurp_file(anchor_file());
$node->stop;
$node->append_conf('postgresql.conf', "sync_ext.enabled = off\n");
$node->start;
$hub->sql(q(ALTER DATABASE hub SET sync_ext.enabled = off));
$hub->sql("SET session_replication_role = replica;
	UPDATE sync.audit SET session_user_name = 'nobody' WHERE id = $victim;
	DO \$\$
	DECLARE s sync.audit_seal; before bytea;
	BEGIN
		FOR s IN SELECT * FROM sync.audit_seal ORDER BY id LOOP
			s.leaves := (SELECT array_agg(sync._audit_hash(a) ORDER BY a.id) FROM sync.audit a WHERE a.id = ANY (s.ids));
			s.prev_hash := coalesce(before, s.prev_hash);
			s.hash := sync._seal_hash(s);
			before := s.hash;
			UPDATE sync.audit_seal t SET leaves = s.leaves, prev_hash = s.prev_hash, hash = s.hash WHERE t.id = s.id;
		END LOOP;
	END
	\$\$");
is($hub->value("SELECT audit_id FROM sync.verify_audit(\$anchors\$$copy\$anchors\$) WHERE status = 'altered' ORDER BY audit_id LIMIT 1"), $victim,
	'a chain that was made anew is told by its anchors, and the row is named');
my $forged = $hub->value(q(SELECT string_agg(sync._anchor(s), E'\n') FROM sync.audit_seal s));
is($hub->value("SELECT status FROM sync.verify_audit(\$\$$forged\$\$) WHERE status IN ('ok', 'broken')"), 'ok', '(in itself it is consistent)');
$hub->sql("SET session_replication_role = replica;
	UPDATE sync.audit SET session_user_name = 'sync_worker' WHERE id = $victim");
$hub->sql("SET session_replication_role = replica;
	DO \$\$
	DECLARE s sync.audit_seal; before bytea;
	BEGIN
		FOR s IN SELECT * FROM sync.audit_seal ORDER BY id LOOP
			s.leaves := (SELECT array_agg(sync._audit_hash(a) ORDER BY a.id) FROM sync.audit a WHERE a.id = ANY (s.ids));
			s.prev_hash := coalesce(before, s.prev_hash);
			s.hash := sync._seal_hash(s);
			before := s.hash;
			UPDATE sync.audit_seal t SET leaves = s.leaves, prev_hash = s.prev_hash, hash = s.hash WHERE t.id = s.id;
		END LOOP;
	END
	\$\$");
is($hub->value("SELECT status FROM sync.verify_audit(\$anchors\$$copy\$anchors\$) WHERE status IN ('ok', 'broken')"), 'ok', '(put right again)');
$hub->sql(q(ALTER DATABASE hub SET sync_ext.enabled = on));
$node->append_conf('postgresql.conf', "sync_ext.enabled = on\n");
$node->restart;
$hub->wait_running;
wait_anchored();

# ---- a dump takes the trail along; adopted, the copy goes on with the chain ----

my $dump = PostgreSQL::Test::Utils::tempdir('dump') . '/hub.dump';
$hub->sql(q(SET sync_ext.reason = 'not sealed in the dump'; SELECT sync.pause('crm')));
$node->run_log([ 'pg_dump', '-Fc', '-C', '-f', $dump, '-d', $node->connstr('hub') ]) or BAIL_OUT('pg_dump failed');
my $other = PostgreSQL::Test::Utils::tempdir('other');
my $restored = SyncExt::Cluster->new('restored', conf => "sync_ext.audit_anchor_dir = '$other'\n");
$restored->command_ok([ 'pg_restore', '-C', '-d', $restored->connstr('postgres'), $dump ], 'pg_restore without a complaint');
is($restored->safe_psql('hub', q(SELECT status FROM sync.verify_audit() WHERE status IN ('ok', 'broken'))), 'ok', 'the copy verifies');
is($restored->safe_psql('hub', q(SELECT count(*) FROM sync.audit)), $hub->value('SELECT count(*) FROM sync.audit'), 'and has all rows');
$restored->safe_psql('hub', q(CREATE SERVER spare FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'rest')));
$restored->safe_psql('hub', 'SELECT sync.adopt_cluster()');
$restored->poll_query_until('hub', q(SELECT NOT EXISTS (SELECT FROM sync.audit_trail WHERE NOT sealed))) or die 'not sealed';
is($restored->safe_psql('hub', q(SELECT status FROM sync.verify_audit() WHERE status IN ('ok', 'broken'))), 'ok', 'adopted, it goes on with the chain');
is($restored->safe_psql('hub', q(SELECT count(*), count(DISTINCT i), (SELECT count(*) FROM sync.audit) FROM sync.audit_seal s, unnest(s.ids) i)) =~ /^(\d+)\|\1\|\1$/ ? 1 : 0,
	1, 'every row is in one seal');
is($restored->safe_psql('hub', q(SELECT string_agg(DISTINCT action, ',' ORDER BY action) FROM sync.audit WHERE incarnation = 2)),
	'hub.adopted,system.adopted,system.created', 'who adopted it is in the trail, and what systems there were');
# Transaction ids of here that the old place had used already: none of its rows is taken for new.
$restored->safe_psql('hub', q(SELECT sync._audit('test.again', NULL, 'x')));
$restored->poll_query_until('hub', q(SELECT NOT EXISTS (SELECT FROM sync.audit_trail WHERE NOT sealed))) or die 'not sealed';
is($restored->safe_psql('hub', "SELECT status FROM sync.verify_audit(\$anchors\$$copy\$anchors\$) WHERE status IN ('ok', 'broken')"), 'ok',
	'the anchors of the old place hold here');
$restored->stop;

# ---- retention ----

my $first = $hub->value('SELECT min(id) FROM sync.audit');
wait_anchored();
$node->append_conf('postgresql.conf', "sync_ext.audit_retention = '1 s'\n");
$node->reload;
$hub->poll_until(q(SELECT setting = '1' FROM pg_settings WHERE name = 'sync_ext.audit_retention'));
my $before = $hub->value(q(SELECT sealed_at FROM sync.audit_seal WHERE id = (SELECT max(id) - 3 FROM sync.audit_seal)));
$hub->poll_until("SELECT '$before'::timestamptz < clock_timestamp() - interval '2 s'");
is($hub->value("SELECT sync.cut_audit('$before', 'a year is over') > 5"), 't', 'the old end is cut');
is(verified(), 'cut', 'a verification says so');
is($hub->value(q(SELECT string_agg(status, ',' ORDER BY status) FROM sync.verify_audit())), 'cut,ok,unsealed', 'and finds nothing amiss, the old anchors included');
is($hub->value(q(SELECT a.detail ->> 'from' FROM sync.audit a WHERE action = 'audit.cut' AND reason = 'a year is over')), $first, 'the cut says what went');
wait_anchored();
is(attacked("DELETE FROM sync.audit a USING sync.audit_seal s WHERE s.id = (SELECT min(id) FROM sync.audit_seal) AND a.id = ANY (s.ids);
	DELETE FROM sync.audit_seal WHERE id = (SELECT min(id) FROM sync.audit_seal)", 'NULL') =~ /^removed/ ? 1 : 0, 1, 'who cuts more than that is found');
is(attacked("UPDATE sync.audit SET detail = jsonb_set(detail, '{seal}', to_jsonb((detail ->> 'seal')::bigint + 1)) WHERE action = 'audit.cut'", 'NULL') =~ /^(altered|removed)/ ? 1 : 0,
	1, 'who changes what the cut says is found');
is_deeply([ $hub->sql('SELECT * FROM sync.check_invariants()') ], [''], 'no invariant is broken');
$node->stop;
done_testing();

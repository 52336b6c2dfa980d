# Declared owners are kept: by a dump restored elsewhere, where columns have other numbers; by prepared
# transactions and a restart; and for rows that logical replication brings, by choice.
use strict;
use warnings;

use PostgreSQL::Test::Utils ();
use SyncExt::Cluster;
use Test::More;

my $node = SyncExt::Cluster->new('own', database => 'hub', conf => "wal_level = logical\n");

# SQLSTATE and column of an error, or 'ok'.
sub outcome
{
	my ($database, $sql) = @_;
	my ($status, $out, $err) = $node->psql($database, "\\set VERBOSITY verbose\n$sql");
	my ($state) = $err =~ /ERROR:\s+(\w{5}):/;
	my ($column) = $err =~ /COLUMN NAME:\s+(\w+)/;

	return $status == 0 ? 'ok' : join ' ', $state, $column // '-';
}

$node->sql(q{
	SELECT sync.adopt_cluster();
	CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'none', base_url 'https://crm.example.com');
	CREATE TABLE account (gone text, id integer PRIMARY KEY, name text, note text, amount numeric);
	ALTER TABLE account DROP gone;
	SELECT sync.track('account');
	SELECT sync.set_owner('account', 'name', 'crm'), sync.set_owner('account', 'amount', 'crm', 'quarantine');
	SELECT sync.set_conflict_policy('account', 'quarantine');
	INSERT INTO account (id, note) VALUES (1, 'n'), (2, 'n')});
$node->sql(q{UPDATE account SET amount = 5 WHERE id = 1});
is(outcome('hub', q{UPDATE account SET name = 'x'}), 'SE060 name', 'an application is refused');

# What a crash and a restart leave
$node->sql(q{BEGIN; UPDATE account SET amount = 6 WHERE id = 1; PREPARE TRANSACTION 'wish'});
$node->stop('immediate');
$node->start;
is(outcome('hub', q{UPDATE account SET name = 'x' WHERE id = 2}), 'SE060 name', 'so it is after a crash');
$node->sql(q{COMMIT PREPARED 'wish'});
is($node->value(q{SELECT remote_value FROM sync.conflict_entry WHERE resolved_at IS NULL}), '6', 'a prepared transaction opens its conflict when it commits');

# A dump, restored
my $dump = PostgreSQL::Test::Utils::tempdir('dump') . '/hub.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('hub') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $dump ], 'pg_restore without a complaint');
my $all = q{SELECT string_agg(format('%s %s %s %s', field, owner, on_violation, conflict_policy), ', ') FROM sync.ownership WHERE origin = 'field'};
is($node->safe_psql('copy', $all), $node->value($all), 'the declaration came along');
is($node->safe_psql('copy', q{SELECT count(*) FROM sync.conflict_entry}), '1', 'so did the conflict');
is(outcome('copy', q{UPDATE account SET name = 'x'}), 'SE060 name', 'and binds there');
$node->safe_psql('copy', q{UPDATE account SET amount = 7, note = 'm' WHERE id = 1});
is($node->safe_psql('copy', q{SELECT amount, note FROM account WHERE id = 1}), '|m', 'whatever the policy');
$node->safe_psql('copy', q{ALTER TABLE account RENAME name TO title});
is(outcome('copy', q{UPDATE account SET title = 'x'}), 'SE060 title', 'renames are followed by the numbers that columns have there');
is(outcome('copy', q{ALTER TABLE account DROP title}), 'SE013 -', 'and drops are refused');
is($node->safe_psql('copy', q{SELECT count(*) FROM sync.health() WHERE "check" LIKE 'ownership%'}), '0', 'health finds every trigger');

# Logical replication: rows that another server has judged are not judged again, unless they are captured here.
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', q{
	CREATE TABLE account (id integer PRIMARY KEY, name text, note text, amount numeric);
	CREATE PUBLICATION p FOR TABLE account;
	SELECT pg_create_logical_replication_slot('own', 'pgoutput')});
$node->sql(sprintf q{CREATE SUBSCRIPTION s CONNECTION '%s' PUBLICATION p WITH (create_slot = false, slot_name = 'own', copy_data = false)},
	$node->connstr('source') =~ s/'/''/gr);
$node->safe_psql('source', q{INSERT INTO account VALUES (10, 'replicated', 'n', 1)});
$node->poll_until(q{SELECT count(*) = 1 FROM account WHERE name = 'replicated' AND amount = 1});
pass('replicated rows pass');
$node->sql(q{SELECT sync.track('account', replica => true)});
$node->safe_psql('source', q{UPDATE account SET amount = 2 WHERE id = 10; UPDATE account SET note = 'seen' WHERE id = 10});
$node->poll_until(q{SELECT count(*) = 1 FROM account WHERE id = 10 AND note = 'seen' AND amount = 1});
pass('they are judged where the table is captured under replication');
my $log = -s $node->logfile;
$node->safe_psql('source', q{UPDATE account SET name = 'x' WHERE id = 10});
$node->wait_for_log(qr/field "name" of object "account" is owned by "crm"/, $log);
$node->sql(q{SELECT sync.track('account')});
$node->poll_until(q{SELECT count(*) = 1 FROM account WHERE id = 10 AND name = 'x'});
pass('a refusal holds the subscription up, until the table is tracked otherwise');
$node->sql(q{ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s});
$node->poll_until(q{SELECT count(*) = 0 FROM pg_replication_slots WHERE active});
$node->sql(q{SELECT pg_drop_replication_slot('own')});

$node->stop;
done_testing();

# Owners of tables and declarers of routes run code of their own in the hub, by
# triggers, conditions and constraints. They gain nothing that they had not.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use PostgreSQL::Test::Utils ();
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['crm'], no_routes => 1);
my $node = $hub->node;

$node->safe_psql('postgres', 'CREATE ROLE mallory LOGIN; GRANT sync_admin TO mallory');
$hub->sql(q(
	GRANT CREATE ON DATABASE hub TO mallory;
	GRANT ALL ON SCHEMA app TO mallory;
	ALTER TABLE app.customer OWNER TO mallory;
	-- what every attempt tries, and where it tells what worked
	CREATE SCHEMA evil AUTHORIZATION mallory;
	SET SESSION AUTHORIZATION mallory;
	CREATE TABLE evil.seen (at text, who text, what text, result text);
	GRANT ALL ON SCHEMA evil TO PUBLIC;
	GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;
	CREATE FUNCTION evil.attempt(at text, what text, statement text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN
			EXECUTE statement;
			INSERT INTO evil.seen VALUES (attempt.at, current_user, attempt.what, 'worked');
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO evil.seen VALUES (attempt.at, current_user, attempt.what, SQLERRM);
		END;
	END $$;
	CREATE FUNCTION evil.attempts(at text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil.attempt(at, 'session', $x$SELECT set_config('session_authorization', 'postgres', false)$x$);
		PERFORM evil.attempt(at, 'session default', 'RESET SESSION AUTHORIZATION');
		PERFORM evil.attempt(at, 'role', $x$SELECT set_config('role', 'postgres', false)$x$);
		PERFORM evil.attempt(at, 'worker', 'SET ROLE sync_worker');
		PERFORM evil.attempt(at, 'superuser', 'ALTER ROLE mallory SUPERUSER');
		PERFORM evil.attempt(at, 'grant', 'GRANT sync_worker TO mallory');
		PERFORM evil.attempt(at, 'pending', 'DELETE FROM sync.pending');
		PERFORM evil.attempt(at, 'outcome', $x$INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) VALUES (0, now(), 1, 1, true, 'done', 'done')$x$);
		PERFORM evil.attempt(at, 'hub', 'UPDATE sync.hub SET timeline = 7');
		PERFORM evil.attempt(at, 'notice', $x$INSERT INTO sync.notice (key, severity, message) VALUES ('evil', 'info', 'evil')$x$);
		PERFORM evil.attempt(at, 'file', $x$SELECT pg_read_file('postgresql.conf')$x$);
		PERFORM evil.attempt(at, 'program', $x$COPY evil.seen (what) FROM PROGRAM 'id'$x$);
		PERFORM evil.attempt(at, 'setting', $x$SELECT set_config('search_path', 'evil', false)$x$);
	END $$;
	-- a deferred trigger, and code that sees to it that it stays deferred
	CREATE TABLE evil.bait (n int);
	CREATE FUNCTION evil.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil.attempts('deferred');
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER later AFTER INSERT ON evil.bait DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION evil.at_commit();
	CREATE FUNCTION evil.lay_bait(at text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		SET CONSTRAINTS ALL DEFERRED;
		INSERT INTO evil.bait VALUES (1);
		INSERT INTO evil.seen VALUES (at, current_user, 'bait', 'laid');
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO evil.seen VALUES (at, current_user, 'bait', SQLERRM);
	END $$;
	CREATE FUNCTION evil.condition(name text) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil.attempts('condition');
		PERFORM evil.lay_bait('condition');
		RETURN true;
	END $$;
	SELECT sync.create_route('crm', 'customer', 'evil.condition(record.name)');
	RESET SESSION AUTHORIZATION));
$hub->wait_running;

# Nobody sees mallory's own writes as an attack.
my $harmless = q(what NOT IN ('bait', 'setting'));

sub seen
{
	my ($at) = @_;
	return $hub->sql("SELECT DISTINCT who, what, result FROM evil.seen WHERE at = '$at' ORDER BY 2");
}

sub nothing_gained
{
	my ($name) = @_;

	is($hub->value(q(SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory')), 'f', "$name: mallory is no superuser");
	is($hub->sql(q(SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles g ON g.oid = m.member
		WHERE g.rolname = 'mallory')), 'sync_admin', "$name: and has no new roles");
	is($hub->sql("SELECT DISTINCT at, who, what FROM evil.seen WHERE result = 'worked' AND $harmless"), '', "$name: no attempt worked");
	is($hub->sql(q(SELECT DISTINCT who FROM evil.seen)), 'mallory', "$name: all of it ran as mallory");
	is($hub->value(q(SELECT count(*) FROM sync.notice WHERE key = 'evil')), 0, "$name: nothing was written into sync");
	is($hub->value(q(SELECT timeline FROM sync.hub)), 1, "$name: nor changed");
	return;
}

# ---- a condition ----

my $id = $hub->write('conditional');
$hub->poll_until(q(SELECT count(*) > 0 FROM sync.delivery WHERE state IN ('done', 'dead')));
$hub->wait_idle;
note(seen('condition'));
note(seen('deferred'));
is(scalar($hub->value(q(SELECT count(*) > 0 FROM evil.seen WHERE at = 'condition'))), 't', 'the condition ran, and tried');
nothing_gained('condition');
$hub->sql(q(SELECT sync.discard(id, 'test') FROM sync.dead_letter));

# ---- a condition that never ends ----

$hub->sql(q(
	SELECT sync.drop_route('customer_to_crm', true);
	SET SESSION AUTHORIZATION mallory;
	SELECT sync.create_route('crm', 'customer', $$pg_sleep(CASE record.name WHEN 'sleepy' THEN 1000 ELSE 0 END)::text IS NOT NULL$$);
	RESET SESSION AUTHORIZATION));
my $sleepy = $hub->write('sleepy');
my $awake = $hub->write('awake');
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.record_status WHERE record_id = '$awake' AND state = 'synced')");
pass('others pass a record whose condition never ends');
like($hub->sql("SELECT message FROM sync.dead_letter WHERE record_id = '$sleepy'"), qr/condition of the route failed: canceling statement/,
	'it waits for a person');
$hub->sql(q(SELECT sync.discard(id, 'test') FROM sync.dead_letter));

# ---- triggers on the table that pulls are applied to ----

$hub->sql(q(
	SELECT sync.drop_route('customer_to_crm', true);
	TRUNCATE evil.seen, evil.bait;
	SET SESSION AUTHORIZATION mallory;
	CREATE FUNCTION evil.on_write() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil.attempts('trigger');
		PERFORM evil.lay_bait('trigger');
		RETURN NEW;
	END $$;
	CREATE TRIGGER mine BEFORE INSERT OR UPDATE ON app.customer FOR EACH ROW EXECUTE FUNCTION evil.on_write();
	CREATE FUNCTION evil.on_commit() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil.attempts('constraint');
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER mine_later AFTER INSERT OR UPDATE ON app.customer DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION evil.on_commit();
	RESET SESSION AUTHORIZATION;
	SELECT sync.create_stream('crm', 'customer', '1 s')));
$hub->sandbox->rest(POST => '/customers', { name => 'pulled', email => 'pulled@example.com' }, { Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" });
$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
$hub->poll_until(q(SELECT EXISTS (SELECT FROM evil.seen WHERE at = 'trigger')
	OR EXISTS (SELECT FROM sync.inbox WHERE reason <> 'reading')));
$hub->wait_idle;
note(seen($_)) foreach qw(trigger constraint deferred);
note($hub->sql('SELECT reason FROM sync.inbox'));
nothing_gained('pull');

# ---- the roles themselves ----

is($hub->sql(q(SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication FROM pg_roles WHERE rolname = 'sync_worker')),
	'f|f|f|f|f', 'the workers\' role has no power of its own');
# Not over standard input: who is turned away does not read it.
ok(!PostgreSQL::Test::Utils::run_log([ 'psql', '-X', '-c', 'SELECT 1', '-d', $node->connstr('hub') . ' user=sync_worker' ]),
	'and nobody logs in as it');

$node->stop;
done_testing();

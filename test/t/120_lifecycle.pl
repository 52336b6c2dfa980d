# Databases and extensions come and go while hubs run.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use SyncExt::Hub;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $hub = SyncExt::Hub->new('main', systems => ['billing']);
my $node = $hub->node;
my $sandbox = $hub->sandbox;

# Statements that must not be stopped by a hub, nor wait long for it.
sub quick
{
	my ($name, $statement) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "SET statement_timeout = '15s'; $statement");
	is($status, 0, $name) or diag($err);
	return;
}

sub hubs { return $node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sync_ext hub')) }

sub in
{
	my ($database, $query) = @_;
	return $node->safe_psql($database, $query);
}

sub until_in
{
	my ($database, $query) = @_;
	return $node->poll_query_until($database, $query) || BAIL_OUT("never true in $database: $query");
}

my $running = q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'running'));

# ---- several databases ----

my $one = $hub->write('before');
$hub->wait_idle;
foreach my $database (qw(second third))
{
	$node->create_extension($database);
	in($database, 'SELECT sync.adopt_cluster()');
	until_in($database, $running);
}
is(hubs(), 3, 'a hub for each database with the extension');
is(in('hub', q(SELECT count(*) FROM sync.worker WHERE state = 'running')), 3, 'sync.worker shows them all');

# ---- rename, tablespace, template ----

quick('RENAME beside a hub', 'ALTER DATABASE second RENAME TO renamed');
until_in('renamed', $running);
pass('the hub is back under the new name');

my $tablespace = PostgreSQL::Test::Utils::tempdir('space');
in('postgres', "CREATE TABLESPACE elsewhere LOCATION '$tablespace'");
quick('SET TABLESPACE beside a hub', 'ALTER DATABASE renamed SET TABLESPACE elsewhere');
until_in('renamed', $running);

quick('TEMPLATE beside a hub', 'CREATE DATABASE copy TEMPLATE hub');
$hub->wait_running;
until_in('copy', q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = 'copy' AND state = 'idle')));
like(in('copy', q(SELECT reason FROM sync.worker WHERE database = 'copy')), qr/another database/,
	'the copy is silent and says why');
in('copy', q(INSERT INTO app.customer (name) VALUES ('from the copy')));
$hub->write('after the copy');
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'the original goes on');
is(scalar(grep { ($_->{body} // '') =~ /from(%20|\+)the(%20|\+)copy/ } @{ $sandbox->requests(limit => 5000) }), 0, 'the copy sent nothing');

# ---- dropping ----

quick('DROP DATABASE of the copy', 'DROP DATABASE copy');
quick('DROP DATABASE beside its hub', 'DROP DATABASE renamed');
quick('DROP DATABASE WITH (FORCE)', 'DROP DATABASE third WITH (FORCE)');
is(hubs(), 1, 'their hubs are gone');

$node->create_extension('dropping');
in('dropping', 'SELECT sync.adopt_cluster()');
until_in('dropping', $running);
{
	my ($status, $out, $err) = $node->psql('dropping', "SET statement_timeout = '15s'; DROP EXTENSION sync_ext CASCADE");
	is($status, 0, 'DROP EXTENSION CASCADE beside its hub') or diag($err);
}
until_in('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'sync_ext hub'));
{
	my ($status, $out, $err) = $node->psql('dropping', "SET statement_timeout = '15s'; CREATE EXTENSION sync_ext");
	is($status, 0, 'and CREATE EXTENSION again') or diag($err);
}
in('dropping', 'SELECT sync.adopt_cluster()');
until_in('dropping', $running);
quick('DROP DATABASE', 'DROP DATABASE dropping');

# A DROP that fails must leave the hub running.
my $session = $node->background_psql('hub');
$session->query_safe('SELECT 1');
my ($status, undef, $error) = $node->psql('postgres', 'DROP DATABASE hub');
isnt($status, 0, 'DROP DATABASE with a session in it is refused');
like($error, qr/being accessed by other users/, 'by PostgreSQL');
$session->quit;
$hub->wait_running;
$hub->write('after a failed drop');
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'the hub goes on after a drop that failed');

# ---- a hub ends and comes back ----

my $old = $hub->hub_pid;
kill 'TERM', $old;
until_in('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'sync_ext hub' AND pid <> $old");
$hub->write('after SIGTERM');
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'a terminated hub is started again');
in('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'sync_ext launcher'");
until_in('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'sync_ext launcher'));
pass('so is the launcher');

# ---- another version of the SQL objects ----

my $destdir = $ENV{SYNC_EXT_DESTDIR};
SKIP:
{
	skip 'needs a server with extension_destdir', 5 if !$destdir;
	my ($share) = glob "$destdir/usr/share/postgresql/*/extension";
	skip 'no extension directory', 5 if !defined $share;
	my $version = in('hub', 'SELECT sync._library_version()');
	my @files = ("$share/sync_ext--$version--99.sql", "$share/sync_ext--99--$version.sql");

	PostgreSQL::Test::Utils::append_to_file($_, "SELECT 1;\n") foreach @files;
	{
		my ($status, $out, $err) = $node->psql('hub', "SET statement_timeout = '15s'; ALTER EXTENSION sync_ext UPDATE TO '99'");
		is($status, 0, 'ALTER EXTENSION UPDATE beside the hub') or diag($err);
	}
	until_in('hub', q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = 'hub' AND state = 'idle')));
	like(in('hub', q(SELECT reason FROM sync.worker WHERE database = 'hub')), qr/library is version .* extension 99/, 'versions that differ: idle, with the reason');
	like(in('hub', q(SELECT status || detail FROM sync.health() WHERE "check" = 'version')), qr/^error/, 'health() says so');
	my $id = $hub->write('while versions differ');
	is($hub->value("SELECT state FROM sync.record_status WHERE record_id = '$id'"), 'queued', 'the app goes on, its events wait');
	in('hub', "ALTER EXTENSION sync_ext UPDATE TO '$version'");
	$hub->wait_running;
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], 'and go when versions agree again');
	unlink @files;
}

# ---- too few worker slots: PostgreSQL's own replication launcher has one ----

$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
my $offset = $hub->log_size;
$node->restart;
$hub->wait_running;
$node->create_extension('crowded');
$node->wait_for_log(qr/sync_ext could not start a worker: all worker slots are taken/, $offset);
until_in('crowded', q(SELECT EXISTS (SELECT FROM sync.health() WHERE "check" = 'worker' AND detail LIKE '%no worker slot is free%')));
pass('health() tells that no slot is free');
$hub->write('beside a crowd');
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'the database that has a slot goes on');
quick('a database without a slot can be dropped', 'DROP DATABASE crowded');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset);
my @warnings = $log =~ /all worker slots are taken/g;
is(scalar @warnings, 1, 'one warning');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal (?!15)/, 'no crash in the log');
$node->stop;

# ---- without preload ----

my $plain = SyncExt::Cluster->new('plain', conf => "shared_preload_libraries = ''\n");
$plain->safe_psql('postgres', 'CREATE EXTENSION sync_ext');
my (undef, undef, $hint) = $plain->psql('postgres', 'SELECT sync.start_workers()');
like($hint, qr/was not preloaded.*shared_preload_libraries/s, 'start_workers() without preload says what to do');
is($plain->safe_psql('postgres', q(SELECT status FROM sync.health() WHERE "check" = 'preloaded')), 'error', 'health(), too');
$plain->safe_psql('postgres', q(
	SELECT sync.adopt_cluster();
	CREATE TABLE thing (id int PRIMARY KEY, name text);
	SELECT sync.track('thing', 'thing');
	INSERT INTO thing VALUES (1, 'one')));
is($plain->safe_psql('postgres', 'SELECT count(*) FROM sync.outbox'), '1', 'capture works without preload');
$plain->safe_psql('postgres', q(DROP EXTENSION sync_ext CASCADE; INSERT INTO thing VALUES (2, 'two')));
is($plain->safe_psql('postgres', 'SELECT count(*) FROM thing'), '2', 'after DROP EXTENSION the app\'s table is a table as ever');
$plain->stop;

done_testing();

# A copy never speaks: dump and restore, basebackup, point-in-time recovery. A
# promoted standby goes on, and a copy that was adopted delivers what was not.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use SyncExt::Hub;
use PostgreSQL::Test::Utils;
use Test::More;

my $hub = SyncExt::Hub->new('main',
	conf => "wal_keep_size = 256MB\narchive_mode = on\narchive_command = 'true'\n");
my $node = $hub->node;
my $sandbox = $hub->sandbox;
my $connstr = $node->connstr('hub');

sub silent
{
	my ($copy, $database, $reason, $name) = @_;

	$copy->poll_query_until($database, "SELECT EXISTS (SELECT FROM sync.worker WHERE database = '$database' AND state = 'idle')")
	  or diag($copy->safe_psql($database, 'TABLE sync.worker'));
	like($copy->safe_psql($database, 'SELECT reason FROM sync.hub_status()'), $reason, "$name says why it is silent");
	like($copy->safe_psql($database, q(SELECT status || ' ' || detail FROM sync.health() WHERE "check" = 'identity')), qr/^error silent/,
		"$name: health() shows it");
	$copy->safe_psql($database, q(INSERT INTO app.customer (name) VALUES ('spoken by a copy')));
	return;
}

sub nothing_spoken
{
	my ($name) = @_;
	is(scalar(grep { ($_->{body} // '') =~ /spoken(%20|\+| )by/ } @{ $sandbox->requests(limit => 5000) }), 0, "$name sent nothing");
	return;
}

# ---- a dump, with rows of partitions, and an event that was not delivered ----

my $known = $hub->write('known 1');
$hub->rename($known, 'known 2');
$hub->wait_idle;
is($hub->value(q(SELECT count(*) > 0 FROM sync.outbox)), 't', 'there are rows in partitions made after CREATE EXTENSION');
$hub->sql(q(SELECT sync.pause('crm', 'not yet')));
$hub->write('undelivered');
$hub->wait_idle;
my $dump = PostgreSQL::Test::Utils::tempdir('dump') . '/hub.dump';
$node->run_log([ 'pg_dump', '-Fc', '-C', '-f', $dump, '-d', $connstr ]) or BAIL_OUT('pg_dump failed');
# The original goes on; what it sends from now on the copy does not know of.
$hub->sql(q(SELECT sync.resume('crm')));
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'the original is well');

my $restored = SyncExt::Cluster->new('restored', conf => "restart_after_crash = on\nsync_ext.allowed_hosts = 'http://127.0.0.1:"
	  . $sandbox->port . "'\nsync_ext.poll_interval = 500\n");
$restored->command_ok([ 'pg_restore', '-C', '-d', $restored->connstr('postgres'), $dump ], 'pg_restore elsewhere without a complaint');
foreach my $table (qw(outbox claim outcome external_id mirror route checkpoint system hub))
{
	my $query = "SELECT count(*) FROM sync.$table";
	cmp_ok($restored->safe_psql('hub', $query), '>', 0, "sync.$table came along");
}
silent($restored, 'hub', qr/another cluster/, 'a restored dump');
nothing_spoken('a restored dump');

# Adopted, it delivers what its own records say is not delivered.
$node->stop;
$restored->secret('billing', 'api_key', $SyncExt::Hub::STRIPE_KEY);
$restored->secret('crm', 'token', $SyncExt::Hub::REST_TOKEN);
my ($stuck) = $restored->safe_psql('hub', q(SELECT id FROM app.customer WHERE name = 'spoken by a copy'));
$restored->safe_psql('hub', q(SELECT sync.adopt_cluster()));
$restored->safe_psql('hub', q(SELECT sync.resume('crm')));
is($restored->safe_psql('hub', 'SELECT incarnation FROM sync.hub'), '2', 'adoption counts up the incarnation');
$restored->poll_query_until('hub', q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = 'hub' AND state = 'running')));
{
	local $hub->{node} = $restored;
	local $restored->{sync_database} = 'hub';
	$hub->{states}{$stuck} = ['spoken by a copy'];
	# Two look-ups, a settle time apart: that of the server's option, not the connector's minute.
	$hub->wait_idle(30);
	is_deeply([ $hub->broken ], [], 'the adopted copy delivers what was not delivered, and nothing twice');
	my $id = $hub->write('new at the copy');
	$hub->rename($known, 'known 3');
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], 'and goes on from there');
}
$restored->stop;

# ---- a basebackup without the permit ----

$node->start;
$hub->wait_running;
# What the adopted copy did at the systems is not this cluster's: forget and begin anew.
$hub->{states} = {};
$sandbox->reset;
$hub->sql(q(TRUNCATE sync.external_id, sync.mirror));
my $a = $hub->write('a 1');
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'the original again');
$node->backup('base');
my $clone = SyncExt::Cluster->new('clone', bare => 1, database => 'hub');
$clone->init_from_backup($node, 'base');
$clone->configure;
$clone->append_conf('postgresql.conf', "archive_mode = off\nsync_ext.allowed_hosts = 'http://127.0.0.1:" . $sandbox->port . "'\n");
$clone->start;
silent($clone, 'hub', qr/permit|hub_id/, 'a clone without the permit');
nothing_spoken('a clone');
$clone->stop;

# ---- recovered to a point in time, with the permit ----

my $recovered = SyncExt::Cluster->new('recovered', bare => 1, database => 'hub');
$recovered->init_from_backup($node, 'base');
$recovered->append_conf('postgresql.conf', "archive_mode = off\nrestore_command = 'false'\n"
	  . "recovery_target = 'immediate'\nrecovery_target_action = 'promote'\n");
PostgreSQL::Test::Utils::append_to_file($recovered->data_dir . '/recovery.signal', '');
$recovered->start;
$recovered->poll_query_until('hub', 'SELECT NOT pg_is_in_recovery()');
silent($recovered, 'hub', qr/point in time/, 'a recovery to a point in time');
nothing_spoken('a recovery to a point in time');
$recovered->stop;

# ---- a standby: silent, then promoted with the permit ----

my $standby = SyncExt::Cluster->new('standby', bare => 1, database => 'hub');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "archive_mode = off\nhot_standby = on\nlog_min_messages = log\n");
$standby->start;
$hub->write('b 1');
$hub->wait_idle;
$node->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('hub', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'sync_ext%')), '0',
	'no worker on a standby');
like($standby->safe_psql('hub', 'SELECT reason FROM sync.hub_status()'), qr/standby/, 'and hub_status() says so');

# It lags: the primary's last events are here, its claims and outcomes are not.
my $late = $hub->new_id;
$hub->sql(q(SELECT sync.pause('billing'), sync.pause('crm')));
$hub->sql($hub->insert_sql($late, 'late 1') . $hub->rename_sql($a, 'a 2'));
$node->wait_for_catchup($standby, 'replay');
$standby->safe_psql('hub', 'SELECT pg_wal_replay_pause()');
$hub->sql(q(SELECT sync.resume('billing'), sync.resume('crm')));
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'the primary has sent what the standby does not know to be sent');
$hub->power_off;
# Its receiver may have had the rest of the WAL: what lags is what counts.
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$standby->reload;
$standby->poll_query_until('hub', q(SELECT count(*) = 0 FROM pg_stat_wal_receiver));
my $replayed = $standby->safe_psql('hub', 'SELECT pg_last_wal_replay_lsn()');
$standby->stop('immediate');
# A lagging standby is one whose WAL ends early: cut it where replay stood.
$standby->cut_wal($replayed);
$standby->start;
$standby->promote;
{
	local $hub->{node} = $standby;
	$standby->{sync_database} = 'hub';
	$hub->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = 'hub' AND state = 'running')));
	pass('with the permit a promoted standby goes on by itself');
	is($hub->value('SELECT timeline FROM sync.hub'), '2', 'on the new timeline');
	is($hub->value(q(SELECT suspect_before IS NOT NULL FROM sync.hub)), 't', 'events from before are suspect');
	is($hub->value('SELECT incarnation FROM sync.hub'), '1', 'transaction ids still mean the same');
	$hub->sql(q(SELECT sync.resume('billing'), sync.resume('crm')));
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], 'what the primary had sent is not made again');
	$hub->write('after promotion');
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], 'and new events flow');

	# What pg_upgrade does to the identity: another system identifier, all else as it was.
	$hub->sql('UPDATE sync.hub SET system_identifier = 4711');
	$hub->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker WHERE database = current_database() AND state = 'idle')));
	$hub->write('between upgrade and adoption');
	like($hub->value('SELECT sync.adopt_cluster(same => true)'), qr/same hub/, 'an upgraded cluster is adopted as the same');
	$hub->wait_running;
	$hub->wait_idle;
	is($hub->value('SELECT incarnation FROM sync.hub'), '1', 'in its old incarnation');
	is_deeply([ $hub->broken ], [], 'and goes on');
}
$standby->stop;

done_testing();

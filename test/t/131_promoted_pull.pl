# A standby that lags is promoted: it does not know what the lost server has sent, and must not take
# its own words for the vendor's news when it pulls them.
use strict;
use warnings;

use SyncExt::Cluster;
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('first', systems => ['crm'], conf => "wal_keep_size = 256MB\n", options => { crm => { max_in_flight => 2 } });
my ($first, $sandbox) = ($hub->node, $hub->sandbox);
my $standby = SyncExt::Cluster->new('second', bare => 1, database => 'hub');

$hub->sql("SELECT sync.create_stream('crm', 'customer', '1 s')");
my $id = $hub->write('Ada 1');
$hub->wait_idle;
$first->backup('base');
$standby->init_from_backup($first, 'base', has_streaming => 1);
# Few deliveries fit into memory, so that the promoted hub pulls before it has read all events.
$standby->append_conf('postgresql.conf', "hot_standby = on\nsync_ext.max_queue = 10\n");
$standby->start;

# Both changes are on the standby; the first server sends only one of them.
$hub->sql("SELECT sync.pause('crm')");
my @others = map { $hub->write("other $_") } 1 .. 14;
$hub->rename($id, 'Ada 2');
$hub->rename($id, 'Ada 3');
$first->wait_for_catchup($standby, 'replay');
$standby->safe_psql('hub', 'SELECT pg_wal_replay_pause()');
$sandbox->fault(kind => 'status', status => 429, headers => { 'Retry-After' => '1' }, match => { method => 'PATCH', body_contains => 'Ada 3' }, times => -1);
$hub->sql("SELECT sync.resume('crm')");
$hub->wait_until('Ada 2 at the crm', sub { grep { ($_->{metadata}{name} // '') eq 'Ada 2' } @{ $sandbox->effects } });
$hub->power_off;
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$standby->reload;
$standby->poll_query_until('hub', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
my $replayed = $standby->safe_psql('hub', 'SELECT pg_last_wal_replay_lsn()');
$standby->stop('immediate');
$standby->cut_wal($replayed);

# The others, whose looking up and making takes its time, come first.
$sandbox->clear_faults;
$sandbox->fault(kind => 'latency', ms => 700, match => { path => '/rest/customers', method => $_ }, times => -1) foreach qw(POST PATCH);
$standby->start;
$standby->promote;
$hub->{node} = $standby;
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.worker WHERE database = 'hub' AND state = 'running')");
$hub->sql("SELECT sync.resume('crm')");
$hub->poll_until("SELECT records > 0 FROM sync.stream_status");
$hub->wait_idle(120);
is($hub->value("SELECT name FROM app.customer WHERE id = '$id'"), 'Ada 3', 'the row keeps its newest state');
is($hub->value("SELECT count(*) FROM sync.outbox WHERE record_id = '$id' AND origin <> 0"), 0, 'nothing of it was taken for a change of the system');
is_deeply([ $hub->broken ], [], 'and all is sent once and in order');

my $takeover = q(SELECT status || ': ' || regexp_replace(detail, '\d.*\d', 'then') FROM sync.health() WHERE "check" = 'takeover crm');
is($hub->value($takeover), 'warning: what a server before then told it last may be unknown here, and was not compared since: customer', 'a comparison is asked for');
$hub->sql(q(SELECT sync.reconcile('crm', 'customer', mode => 'full')));
$hub->wait_idle(60);
is($hub->value(q(SELECT state || ' ' || found FROM sync.reconciliation)), 'done 0', 'it is made, and finds nothing');
is($hub->value($takeover), undef, 'and is not asked for any more');

$hub->node->stop;
done_testing();

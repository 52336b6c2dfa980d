# A standby that lags is promoted after the lost server has sent several changes of a record: it does not
# know that they were sent. What makes a record is looked up; what sets a state is repeated in order, which has no
# effect where keys are honoured, and ends with the newest state where they are not.
use strict;
use warnings;

use SyncExt::Cluster;
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('first', systems => [qw(billing bulk crm)], conf => "wal_keep_size = 256MB\n");
my ($first, $sandbox) = ($hub->node, $hub->sandbox);
my $standby = SyncExt::Cluster->new('second', bare => 1, database => 'hub');

# Of what is financial no state is left out, and the history of the mirror must not end with what is gone.
$hub->sql(q(UPDATE sync.object SET financial = true; SELECT sync._change()));
my $id = $hub->write('Ada 1');
my $gone = $hub->write('Eve 1');
my $back = $hub->write('Joy 1');
$hub->wait_idle;
$first->backup('base');
$standby->init_from_backup($first, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby = on\n");
$standby->start;

$hub->sql("SELECT sync.pause(name) FROM sync.system");
$hub->rename($id, "Ada $_") foreach 2 .. 4;
$hub->rename($back, "Joy $_") foreach 2 .. 4;
my $new = $hub->write('Bob 1');
$hub->rename($new, 'Bob 2');
$hub->rename($gone, 'Eve 2');
my $brief = $hub->write('Max 1');
$hub->sql("DELETE FROM app.customer WHERE id IN ('$gone', '$brief')");
$first->wait_for_catchup($standby, 'replay');
$standby->safe_psql('hub', 'SELECT pg_wal_replay_pause()');
$hub->sql("SELECT sync.resume(name) FROM sync.system");
$hub->wait_idle;
$hub->forget($_) foreach $gone, $brief;
is_deeply([ $hub->broken ], [], 'the lost server sent them all');
# Of one key the vendor keeps the answer no longer.
my ($spent) = map { $_->{key} } grep { $_->{name} eq 'Joy 2' } @{ $hub->effects_of('billing')->{$back} };
$sandbox->forget_key($spent);
$hub->power_off;
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$standby->reload;
$standby->poll_query_until('hub', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
my $replayed = $standby->safe_psql('hub', 'SELECT pg_last_wal_replay_lsn()');
$standby->stop('immediate');
$standby->cut_wal($replayed);
$standby->start;
$standby->promote;
$hub->{node} = $standby;
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.worker WHERE database = 'hub' AND state = 'running')");
$hub->sql("SELECT sync.resume(name) FROM sync.system");
$hub->wait_idle(120);

sub names { my ($system, $id) = @_; return join ', ', map { $_->{name} } @{ $hub->effects_of($system)->{$id} } }

is(names(billing => $id), 'Ada 1, Ada 2, Ada 3, Ada 4', 'nothing takes effect twice under the keys of before');
is(names(billing => $back), 'Joy 1, Joy 2, Joy 3, Joy 4, Joy 2, Joy 3, Joy 4', 'where a key of an older state has died, the newer ones that it takes back are told again');
is($hub->sql("SELECT c.step, c.issue, o.code FROM sync.claim c JOIN sync.outcome o USING (route_id, seq, attempt_id) JOIN sync.route r ON r.id = c.route_id AND r.name LIKE '%billing'"
	  . " WHERE c.record_id = '$back' AND o.code IS NOT NULL ORDER BY c.attempt_id"), "update|1|sent_again\nupdate|2|sent_again\nupdate|2|sent_again", 'under keys of their own');
is(names(crm => $id), 'Ada 1, Ada 2, Ada 3, Ada 4, Ada 2, Ada 3, Ada 4', 'a system without keys is told all states again, in order, and the newest last');
foreach my $system (qw(billing bulk crm))
{
	my @made = grep { $_->{name} eq 'Bob 1' } @{ $hub->effects_of($system)->{$new} };

	is(scalar(keys %{ { map { $_->{remote} => 1 } @made } }), 1, "$system: what was made is found, and not made again");
	like(names($system, $new), qr/Bob 2$/, "$system: it ends with its newest state");
}
# One who takes an upsert makes it anew; the others say that it is gone.
is(names(bulk => $gone), 'Eve 1, Eve 2, Eve 2, Eve 2, Eve 2', 'bulk: what was deleted is changed and deleted once more');
my @there = ((map { $_->{external_id} } map { @{ $sandbox->rest(GET => "/$_")->{data} } } qw(bulk customers)),
	map { $_->{metadata}{sync_id} } @{ $sandbox->stripe(GET => '/v1/customers', { limit => 100 })->{data} });
is_deeply([ grep { $_ eq $gone || $_ eq $brief } map { $_ // '' } @there ], [], 'what was deleted is gone in the end, also what the lost server had made before');
is($hub->sql("SELECT o.outcome, o.state, o.code FROM sync.claim c JOIN sync.outcome o USING (route_id, seq, attempt_id) WHERE c.record_id = '$gone' AND o.state = 'ignored'"),
	'rejected|ignored|gone', 'crm: a change of what is deleted here and there is passed over');
$hub->forget($back);
is_deeply([ $hub->broken(systems => ['billing']) ], ["key $spent was executed 2 times"], 'all keys but the one that died were executed once, and nothing is left');

$hub->node->stop;
done_testing();

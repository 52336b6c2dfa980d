# As 132_promoted_push, with systems whose answers do not tell whether a key was honoured: that a change has been
# executed again follows from how long its key has lived. One that may be dead has perhaps taken back newer
# changes, which are told again under keys of their own; under one that lives nothing happens twice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Cluster;
use SyncExt::Hub;
use Test::More;

# How long each system promises to remember a key. The sandbox keeps them all, but for those that it is told
# to forget: the vendor may keep them longer, which is the worse case.
my %lifetime = (brief => '1 s', slow => '20 s', lasting => '1 day');
my $hub = SyncExt::Hub->new('first', systems => [], conf => "wal_keep_size = 256MB\n");
my ($first, $sandbox) = ($hub->node, $hub->sandbox);
my $standby = SyncExt::Cluster->new('second', bare => 1, database => 'hub');

$sandbox->config(rest_honours_keys => JSON::PP::true);
foreach my $system (sort keys %lifetime)
{
	my $text = SyncExt::Hub::manifest('rest') =~ s{/rest/customers}{/rest/$system}gr;
	my $manifest = decode_json($text);

	$manifest->{name} = $system;
	$manifest->{idempotency} = { header => 'Idempotency-Key', lifetime => $lifetime{$system}, methods => [qw(POST PATCH)] };
	$manifest->{limits}{timeout} = '60 s';
	$first->secret($system, 'token', $SyncExt::Hub::REST_TOKEN);
	$hub->sql('SELECT sync.register_connector($manifest$' . encode_json($manifest) . '$manifest$::jsonb)');
	$hub->sql("CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector '$system', base_url '" . $sandbox->url . "', rate_limit '1000/s');
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS (token 'file:token');
		SELECT sync.create_route('$system', 'customer')");
}

# Of what is financial no state is left out.
$hub->sql(q(UPDATE sync.object SET financial = true; SELECT sync._change()));
my ($ada, $joy) = map { $hub->write("$_ 1") } qw(Ada Joy);
$hub->wait_idle;
$first->backup('base');
$standby->init_from_backup($first, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby = on\n");
$standby->start;

$hub->sql("SELECT sync.pause(name) FROM sync.system");
foreach my $n (2 .. 4)
{
	$hub->rename($ada, "Ada $n");
	$hub->rename($joy, "Joy $n");
}
$first->wait_for_catchup($standby, 'replay');
$standby->safe_psql('hub', 'SELECT pg_wal_replay_pause()');
$hub->sql("SELECT sync.resume(name) FROM sync.system");
$hub->wait_idle;

sub effects
{
	my ($system, $id) = @_;

	return grep { $_->{path} =~ m{^/rest/$system\b} && ($_->{external_id} // '') eq $id } @{ $sandbox->effects };
}
sub names { return join ', ', map { $_->{metadata}{name} } effects(@_) }
sub codes
{
	my ($system, $id) = @_;

	return $hub->sql("SELECT string_agg(c.issue || ' ' || coalesce(o.code, 'as before'), ', ' ORDER BY c.attempt_id) FROM sync.claim c
		JOIN sync.outcome o USING (route_id, seq, attempt_id) JOIN sync.route r ON r.id = c.route_id JOIN sync.system y ON y.id = r.system_id AND y.name = '$system'
		WHERE c.record_id = '$id' AND c.step = 'update'");
}

is(names($_, $joy), 'Joy 1, Joy 2, Joy 3, Joy 4', "$_: the lost server sent them all") foreach sort keys %lifetime;
foreach my $system (qw(brief slow))
{
	my ($spent) = map { $_->{idempotency_key} } grep { $_->{metadata}{name} eq 'Joy 2' } effects($system, $joy);
	$sandbox->forget_key($spent);
}
$hub->power_off;
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$standby->reload;
$standby->poll_query_until('hub', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
my $replayed = $standby->safe_psql('hub', 'SELECT pg_last_wal_replay_lsn()');
$standby->stop('immediate');
$standby->cut_wal($replayed);
$standby->start;
# Sent while its key should live, executed when that is over.
$sandbox->fault(kind => 'latency', ms => 20_000, match => { method => 'PATCH', path => '/rest/slow', body_contains => 'Joy 2' });
$standby->promote;
$hub->{node} = $standby;
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.worker WHERE database = 'hub' AND state = 'running')");
$hub->sql("SELECT sync.resume(name) FROM sync.system");
$hub->wait_idle(120);

foreach my $case ([ Ada => $ada ], [ Joy => $joy ])
{
	my ($name, $id) = @$case;

	is(names(lasting => $id), join(', ', map { "$name $_" } 1 .. 4), "lasting: under the keys of before nothing of $name happens twice");
	is(codes(lasting => $id), join(', ', ('1 as before') x 3), '… for these are the keys that were used');
}
foreach my $system (qw(brief slow))
{
	is(names($system, $joy), 'Joy 1, Joy 2, Joy 3, Joy 4, Joy 2, Joy 3, Joy 4', "$system: the newer states that a dead key takes back are told again");
	is(codes($system, $joy), '1 sent_again, 2 sent_again, 2 sent_again', '… under keys of their own');
}
is(names(brief => $ada), 'Ada 1, Ada 2, Ada 3, Ada 4, Ada 3, Ada 4', 'brief: a key that should be dead, but lives, costs a repetition, and the newest state stays last');
is(join(', ', sort map { $_->{name} } @{ $sandbox->rest(GET => "/$_")->{data} }), 'Ada 4, Joy 4', "$_ ends with the newest states") foreach sort keys %lifetime;
is($hub->sql('SELECT * FROM sync.pending'), '', 'nothing is left');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'every invariant holds');

$hub->node->stop;
done_testing();

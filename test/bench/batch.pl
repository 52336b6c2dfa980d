# Records a second through a batch endpoint that takes 100, against the same records one by one.
#
# bench: push.batched.records_per_s
#
# The system is the sandbox's plain vendor; an answer takes 50 ms, whether to one record or to a
# hundred, and 8 requests are in flight, which is what such systems allow. Both objects have the same
# columns, the same mapping and the same route; only one has a batch endpoint in the manifest. The
# rate is that from resume() to the last outcome on record. Without the 50 ms (a note, no line) what
# is left is our own work and the sandbox's.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Utils ();
use SyncExt::Bench;
use SyncExt::Sandbox;

my $sandbox = SyncExt::Sandbox->start;
my $node = bench_cluster('batch', allow => $sandbox->url);
my $manifest = JSON::PP::decode_json(
	PostgreSQL::Test::Utils::slurp_file("$ENV{TESTDIR}/test/connectors/rest_batch.json"));
my $batched = $manifest->{objects}{batched} = delete $manifest->{objects}{customer};
my $single = $manifest->{objects}{single} = JSON::PP::decode_json(JSON::PP::encode_json($batched));
delete $single->{push}{operations}{upsert}{batch};
my $text = JSON::PP::encode_json($manifest);

$sandbox->config(keep_requests => 0);
$node->secret('bulk', 'token', 'a token');
$node->sql(qq{
	CREATE SCHEMA app;
	SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb);
	CREATE SERVER bulk FOREIGN DATA WRAPPER sync_ext
		OPTIONS (connector 'rest_batch', base_url '@{[ $sandbox->url ]}', rate_limit '1000000/s', max_in_flight '8');
	CREATE USER MAPPING FOR PUBLIC SERVER bulk OPTIONS (token 'file:token')});
foreach my $object (qw(batched single))
{
	$node->sql(qq{
		CREATE TABLE app.$object (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, billing_email text);
		SELECT sync.track('app.$object', '$object');
		SELECT sync.create_route('bulk', '$object')});
}

# Records a second of n new ones, about 1 kB each.
sub rate
{
	my ($object, $n) = @_;

	$node->sql(q(SELECT sync.pause('bulk')));
	$node->sql(qq{INSERT INTO app.$object (name, billing_email)
		SELECT 'Customer ' || i || repeat(' and company', 75), 'c' || i || '\@example.com' FROM generate_series(1, $n) i});
	my ($before) = $node->value(q(SELECT count(*) FROM sync.outcome WHERE final AND outcome = 'done'));
	my ($began) = $node->sql(q(SELECT clock_timestamp() FROM (SELECT sync.resume('bulk')) r));
	$node->wait_idle(300) eq 't' or die 'the hub does not become idle';
	my $done = $node->value(q(SELECT count(*) FROM sync.outcome WHERE final AND outcome = 'done')) - $before;
	die "$done of $n were delivered" if $done != $n;
	return $n / $node->value("SELECT extract(epoch FROM max(at) - '$began') FROM sync.outcome");
}

sub compare
{
	my ($pairs, $n_batched, $n_single) = @_;
	return interleave($pairs, sub { rate('batched', $n_batched) }, sub { rate('single', $n_single) });
}

rate($_, 500) foreach qw(batched single);
my @bare = compare(3, 10_000, 5_000);
note('records/s in batches and alone, where the system takes no time: '
	  . join ', ', map { sprintf '%d/%d', @$_ } @bare);
$sandbox->fault(kind => 'latency', ms => 50, times => -1, match => { path => '/rest' });
my @pairs = compare(5, 10_000, 400);
note('records/s in batches and alone, where it takes 50 ms: ' . join ', ', map { sprintf '%d/%d', @$_ } @pairs);
report('push.batched.records_per_s', [ ratios(@pairs) ], '>=', 5);
$sandbox->clear_faults;

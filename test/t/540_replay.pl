# Replay against the sandbox: under the same keys nothing happens twice, under new ones exactly once more;
# through crashes, at the stated rate, in order with live traffic, paused and stopped.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;
use Time::HiRes qw(time);

my $hub = SyncExt::Hub->new('main');
my $node = $hub->node;
my $sandbox = $hub->sandbox;
my $began = $hub->value('SELECT clock_timestamp()');

# Starts a replay of all since the test began; its job.
sub job
{
	my ($system, %option) = @_;
	my $arguments = join '', map { ", $_ => '$option{$_}'" } sort keys %option;

	return $hub->sql("SELECT job FROM sync.replay('$system', 'customer', '$began', clock_timestamp(), dry_run => false, reason => 'test'$arguments)");
}

sub ended
{
	my ($job) = @_;
	$hub->poll_until("SELECT state = 'done' FROM sync.job WHERE id = $job");
	$hub->wait_idle;
	return;
}

# How often each record of a system took effect.
sub times_each
{
	my ($system) = @_;
	my $seen = $hub->effects_of($system);
	my %count;

	$count{ scalar @$_ }++ foreach values %$seen;
	return \%count;
}

sub spent_twice { return [ grep { $_->{executions} > 1 || $_->{mismatches} } @{ $sandbox->keys } ] }

sub invariants { return $hub->sql('SELECT * FROM sync.check_invariants()') }

my @ids = map { $hub->write("customer $_") } 1 .. 40;
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'before');

# ---- what it shows ----

my $requests = @{ $sandbox->requests(limit => 5000) };

is($hub->sql("SELECT action, count(*), count(idempotency_key), bool_and(request = sent), bool_and(method = 'POST')
	FROM sync.replay('billing', 'customer', '$began', clock_timestamp()) GROUP BY action"), 'repeat|40|40|t|t',
	'billing would get the same requests under their keys');
is($hub->sql("SELECT action, count(*), count(idempotency_key) FROM sync.replay('crm', 'customer', '$began', clock_timestamp()) GROUP BY action"),
	'look_up|40|0', 'crm, which knows no keys, would be asked first');
is(scalar @{ $sandbox->requests(limit => 5000) }, $requests, 'and showing it sends nothing');

# ---- the same keys ----

my $job = job('billing', rate => '200/s');
ended($job);
is($hub->sql("SELECT done, total, result - 'replay' FROM sync.job WHERE id = $job"), '40|40|{"issued": 40, "skipped": 0}', 'the job says what it did');
is($hub->value("SELECT count(*) FROM sync.claim c JOIN sync.route r ON r.id = c.route_id JOIN sync.system y ON y.id = r.system_id
	WHERE y.name = 'billing' AND c.step = 'create'"), 80, 'every request was sent a second time');
is($hub->value("SELECT count(DISTINCT c.idempotency_key) FROM sync.claim c JOIN sync.route r ON r.id = c.route_id JOIN sync.system y ON y.id = r.system_id
	WHERE y.name = 'billing' AND c.step = 'create'"), 40, 'under its own key');
is_deeply([ $hub->broken ], [], 'and nothing happened twice');

ended(job('crm', rate => '200/s'));
is_deeply([ $hub->broken ], [], 'what was looked up and found is not made again');

# ---- what was lost, and what was not ----

my $lost = $hub->new_id;
$hub->sql($hub->insert_sql($lost, 'lost over there'));
$hub->wait_idle;
my ($remote) = map { $_->[0]{remote} } grep { defined } $hub->effects_of('crm')->{$lost};
$sandbox->rest(DELETE => "/customers/$remote", undef, { Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" });
$hub->sql("DELETE FROM sync.external_id WHERE record_id = '$lost' AND system_id = (SELECT id FROM sync.system WHERE name = 'crm')");
$hub->sql("DELETE FROM sync.mirror WHERE record_id = '$lost' AND system_id = (SELECT id FROM sync.system WHERE name = 'crm')");
ended(job('crm', filter => "name = ''lost over there''"));
is(scalar(grep { $_->{name} eq 'lost over there' && $_->{method} eq 'POST' } @{ $hub->effects_of('crm')->{$lost} }), 2, 'what is not found is made again');
isnt($hub->value("SELECT sync.remote_id('customer', '$lost', 'crm')"), $remote, 'and bound anew');
$hub->forget($lost);
is(invariants(), '', 'invariants hold');

# ---- new keys ----

ended(job('billing', keys => 'new', rate => '200/s', filter => "name LIKE ''customer %''"));
is_deeply(times_each('billing'), { 1 => 1, 2 => 40 }, 'a new key is one more request for each, on purpose');
is_deeply(spent_twice(), [], 'and each key was executed once');
is(invariants(), '', 'invariants hold');

# ---- dead in the middle, three ways ----

foreach my $way ([ 'kill', 'job-stepped' ], [ 'kill', 'push-claimed' ], [ 'kill', 'job-stepping' ])
{
	my $before = times_each('billing');
	my $offset = $hub->log_size;

	$job = job('billing', keys => 'new', rate => '40/s', filter => "name LIKE ''customer %''");
	$hub->poll_until("SELECT done BETWEEN 5 AND 35 FROM sync.job WHERE id = $job");
	$hub->arm($way->[1], $way->[0]);
	$hub->wait_crash($way->[1], $offset);
	$hub->wait_running;
	ended($job);
	my %each = map { $_ => $before->{$_} } grep { $_ == 1 } keys %$before;
	$each{ $_ + 1 } = $before->{$_} foreach grep { $_ > 1 } keys %$before;
	is_deeply(times_each('billing'), \%each, "killed at $way->[1], each was issued once all the same");
	is_deeply(spent_twice(), [], 'no key was executed twice');
	is(invariants(), '', 'invariants hold');
}

# ---- the rate ----

$job = job('billing', rate => '20/s', filter => "name LIKE ''customer %''");
ended($job);
my $most = $hub->value("SELECT max(n) FROM (SELECT count(*) OVER (ORDER BY i.acted_at RANGE BETWEEN CURRENT ROW AND interval '1 s' FOLLOWING) AS n
	FROM sync.replay_item i JOIN sync.replay_run r ON r.id = i.replay_id WHERE r.job_id = $job) w");
cmp_ok($most, '<=', 25, "at 20/s no second had more than a step beyond it ($most)");
cmp_ok($hub->value("SELECT extract(epoch FROM max(i.acted_at) - min(i.acted_at)) >= 1.7
	FROM sync.replay_item i JOIN sync.replay_run r ON r.id = i.replay_id WHERE r.job_id = $job"), 'eq', 't', 'forty took two seconds');

# ---- live traffic ----

$sandbox->fault(kind => 'latency', ms => 20, match => { path => '/v1/customers' });
$job = job('billing', keys => 'new', rate => '40/s', filter => "name LIKE ''customer %''");
foreach my $round (1 .. 8)
{
	$hub->sql(join '', map { $hub->rename_sql($ids[$_], "renamed $round") } 0 .. 19);
	$hub->poll_until("SELECT done >= " . $round * 4 . " OR state = 'done' FROM sync.job WHERE id = $job");
}
ended($job);
$sandbox->clear_faults;
my @late;
foreach my $id (@ids[ 0 .. 19 ])
{
	my @names = map { $_->{name} } @{ $hub->effects_of('billing')->{$id} };
	my $at = -1;
	foreach my $name (@names)
	{
		my $round = $name =~ /renamed (\d+)/ ? $1 : 0;
		push @late, "$id: $name after $at" if $round < $at;
		$at = $round;
	}
	push @late, "$id ended as $names[-1]" if $names[-1] ne 'renamed 8';
}
is_deeply(\@late, [], 'no replay took a record back behind a live change');
is($hub->value("SELECT count(*) > 0 FROM sync.replay_item i JOIN sync.replay_run r ON r.id = i.replay_id WHERE r.job_id = $job AND i.state = 'skipped'"),
	't', 'what live traffic had changed was passed over');
is(invariants(), '', 'invariants hold');

# ---- pause and stop ----

$job = job('billing', rate => '10/s', filter => "name LIKE ''customer %''");
$hub->poll_until("SELECT done > 0 FROM sync.job WHERE id = $job");
$hub->sql("SELECT sync.pause_job($job, 'lunch')");
my $done = $hub->value("SELECT done FROM sync.job WHERE id = $job");
$hub->write('meanwhile');
$hub->wait_idle;
is($hub->sql("SELECT state, done FROM sync.job WHERE id = $job"), "paused|$done", 'a paused replay issues nothing');
$hub->sql("SELECT sync.resume_job($job)");
$hub->poll_until("SELECT done > $done FROM sync.job WHERE id = $job");
$hub->sql("SELECT sync.stop_job($job, 'enough')");
$done = $hub->value("SELECT done FROM sync.job WHERE id = $job");
cmp_ok($done, '<', 20, 'a stopped one leaves the rest');
$hub->wait_idle;
is($hub->value("SELECT count(*) FROM sync.replay_item i JOIN sync.replay_run r ON r.id = i.replay_id WHERE r.job_id = $job AND i.state <> 'planned'"), $done,
	'as its list says');
is(invariants(), '', 'invariants hold');
is_deeply(spent_twice(), [], 'in all of this no key was executed twice');

# ---- several steps: each repeated under its key, one that comes out otherwise under another ----

sub two_steps
{
	my ($version, $note) = @_;
	my $manifest = JSON::PP->new->decode(SyncExt::Hub::manifest('stripe'));
	my $push = $manifest->{objects}{customer}{push};

	$manifest->{version} = $version;
	$push->{operations}{tag} = { kind => 'action', method => 'POST', path => '/v1/customers/${remote.id}', body => { description => $note },
		response => { remote_id => '$.id' } };
	$push->{plan} = { create => [ 'create', 'tag' ], update => ['update'] };
	$hub->sql('SELECT sync.register_connector($manifest$' . JSON::PP->new->encode($manifest) . '$manifest$::jsonb)');
	return;
}

two_steps('two', 'first note');
my $stepped = $hub->write('two steps');
$hub->wait_idle;
$job = job('billing', filter => "name = ''two steps''");
ended($job);
my $steps = "SELECT c.step, count(*), count(DISTINCT c.idempotency_key), max(c.issue) FROM sync.claim c JOIN sync.route r ON r.id = c.route_id
	JOIN sync.system y ON y.id = r.system_id WHERE y.name = 'billing' AND c.record_id = '$stepped' GROUP BY c.step ORDER BY c.step";
is($hub->sql($steps), "create|2|1|1\ntag|2|1|1", 'both steps are repeated under their keys');
is_deeply(spent_twice(), [], 'and nothing happened twice');
two_steps('three', 'second note');
ended(job('billing', filter => "name = ''two steps''"));
is($hub->sql($steps), "create|3|1|1\ntag|3|2|2", 'a step that comes out otherwise has a key of its own');
is_deeply(spent_twice(), [], 'so no key stood for two requests');
is(invariants(), '', 'invariants hold');

done_testing();

# What three routes on one object cost, and a route whose object nobody writes.
#
# bench: push.fanout push.fanout.events push.fanout.trickle push.skip push.skip.single
#
# push.fanout: time from resume() until the same number of events is with three systems, by that until
# it is with one. push.fanout.events: processor time of the hub and of the session that writes the
# events, one a transaction and as fast as it can, for three systems by that for one: what an event
# costs the server. .trickle: the same at a hundred events a second, where the hub has nothing to batch.
# push.skip: processor time of the hub while it passes over events of an object without route, beside
# a route of another object, on top of that of the session that writes them in one statement; .single:
# one a transaction.
use strict;
use warnings;

use SyncExt::Backlog;
use SyncExt::Bench;

my $PAIRS = 5;
my $N = 5000;
my $hub = SyncExt::Backlog->new('fanout', systems => 3);
my $node = $hub->node;
my $session = $node->background_psql('hub');
my $writer = $session->query_safe('SELECT pg_backend_pid()');

# Rows, each in a transaction of its own.
sub write_single
{
	my ($what, $n, $pause) = @_;
	my $first = ($hub->{written}{$what} // 0) + 1;
	my $last = $hub->{written}{$what} = $first + $n - 1;

	$session->query_safe("SET synchronous_commit = off; DO \$\$ BEGIN FOR i IN $first..$last LOOP
		INSERT INTO app.$what VALUES (i, 'item ' || i, i); COMMIT; " . ($pause ? "PERFORM pg_sleep($pause);" : '') . " END LOOP; END \$\$");
	return;
}

# Seconds until n waiting events are with each of the systems.
sub drain_seconds
{
	my ($systems) = @_;

	$hub->route($systems);
	$hub->pause;
	$hub->write($N);
	my $before = $hub->served;
	return seconds(sub { $hub->resume; $hub->until_served($before + $systems * $N) });
}

# Processor seconds of the server for n events on their way to each of the systems.
sub cost
{
	my ($systems, $n, $pause) = @_;

	$hub->route($systems);
	$node->wait_idle(60);
	my ($before, $used) = ($hub->served, cpu_seconds($hub->pid) + cpu_seconds($writer));
	write_single('item', $n, $pause);
	$hub->until_served($before + $systems * $n);
	$node->wait_idle(60);
	return cpu_seconds($hub->pid) + cpu_seconds($writer) - $used;
}

# The hub has passed over everything.
sub level
{
	return $node->poll_until(q(SELECT bool_and(c.finished_seq >= (SELECT last_value FROM sync.outbox_seq) - 1000)
		FROM sync.route r, LATERAL (SELECT * FROM sync.checkpoint k WHERE k.route_id = r.id ORDER BY k.id DESC LIMIT 1) c
		WHERE r.state = 'active'));
}

sub skip
{
	my ($write) = @_;

	level();
	my ($own, $written) = (cpu_seconds($hub->pid), cpu_seconds($writer));
	$write->();
	level();
	return 1 + (cpu_seconds($hub->pid) - $own) / (cpu_seconds($writer) - $written);
}

if (wanted('push.fanout'))
{
	drain_seconds(3);
	my @pairs = interleave($PAIRS, sub { drain_seconds(3) }, sub { drain_seconds(1) });

	note('seconds, three/one: ' . join ', ', map { sprintf '%.2f/%.2f', @$_ } @pairs);
	report('push.fanout', [ ratios(@pairs) ], '<=', 2.2);
}
if (wanted('push.fanout.events'))
{
	my @pairs = interleave($PAIRS, sub { cost(3, $N) }, sub { cost(1, $N) });

	note('processor seconds, three/one: ' . join ', ', map { sprintf '%.2f/%.2f', @$_ } @pairs);
	report('push.fanout.events', [ ratios(@pairs) ], '<=', 2.2);
}
if (wanted('push.fanout.trickle'))
{
	my @pairs = interleave($PAIRS, sub { cost(3, 200, 0.01) }, sub { cost(1, 200, 0.01) });

	note('processor seconds, three/one: ' . join ', ', map { sprintf '%.3f/%.3f', @$_ } @pairs);
	report('push.fanout.trickle', [ ratios(@pairs) ], '<=', 2.2);
}
$hub->route(1);
if (wanted('push.skip'))
{
	my $first = 0;
	my @values = map {
		skip(sub {
			$session->query_safe("INSERT INTO app.other SELECT $first + i, 'other', i FROM generate_series(1, 200000) i");
			$first += 200000;
		}) } 1 .. $PAIRS;

	report('push.skip', \@values, '<=', 1.05);
	$hub->{written}{other} = $first;
}
if (wanted('push.skip.single'))
{
	my @values = map { skip(sub { write_single('other', 60000) }) } 1 .. $PAIRS;

	report('push.skip.single', \@values, '<=', 1.05);
}
$session->quit;

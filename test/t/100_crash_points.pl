# The hub, the server and the machine die at every point of a delivery. After
# the restart every change has taken effect once and in order, at a system that
# honours idempotency keys and at one that must be asked.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my @points = qw(push-scanned push-claiming push-claimed push-submitted push-answered push-recording
  push-recorded push-checkpoint);
my $hub = SyncExt::Hub->new('main');
my $node = $hub->node;
my $old = $hub->write('Old 0');
my $round = 0;

$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'without a crash');

# Three transactions of a new record and one that exists, one of a second new one.
sub write_some
{
	my ($one, $two) = ($hub->new_id, $hub->new_id);

	$round++;
	$hub->sql($hub->insert_sql($one, "One $round.1")
		  . "BEGIN;" . $hub->insert_sql($two, "Two $round.1") . $hub->rename_sql($old, "Old $round.1") . "COMMIT;"
		  . $hub->rename_sql($one, "One $round.2") . $hub->rename_sql($old, "Old $round.2"));
	return;
}

sub settled
{
	my ($name) = @_;

	$hub->wait_running;
	$hub->wait_idle;
	is_deeply([ $hub->broken ], [], $name);
	return;
}

my %death = (
	'kill -9 of the hub' => sub {
		my $offset = $hub->log_size;
		kill 'KILL', $hub->hub_pid;
		return sub {
			$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
			$hub->wait_up;
		};
	},
	'power failure' => sub { $hub->power_off; return sub { $node->start } },
	'immediate stop' => sub { $node->stop('immediate'); return sub { $node->start } },
);

foreach my $death (sort keys %death)
{
	foreach my $point (@points)
	{
		$hub->arm($point, 'wait');
		write_some();
		$hub->reached($point);
		my $restart = $death{$death}->();
		$hub->disarm($point);
		$restart->();
		settled("$death at $point");
	}

	# The effect is there, the answer is not.
	$hub->sandbox->fault(kind => 'timeout_after_effect', ms => 1000, times => 2, match => { method => 'POST' });
	my $before = @{ $hub->sandbox->effects };
	write_some();
	$hub->wait_until('an effect', sub { @{ $hub->sandbox->effects } > $before });
	$death{$death}->()->();
	settled("$death while requests are in flight");
}

$node->stop;
done_testing();

# What wait_idle() saw stays so after a crash: a create that was settled is not settled once more.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

# Else it puts what the hub commits on disk before anything can be killed.
my $hub = SyncExt::Hub->new('main', systems => ['crm'], options => { crm => { timeout => '1 s' } },
	conf => "wal_writer_delay = 10s\n");
my ($node, $sandbox) = ($hub->node, $hub->sandbox);

sub attempts { return $hub->value("SELECT count(*) FROM sync.claim WHERE record_id = '$_[0]'") }

# At once: whatever wakes the server's WAL writer meanwhile puts things on disk.
sub crash
{
	my ($pid) = @_;
	my $offset = $hub->log_size;

	kill 'KILL', $pid or die "cannot kill $pid: $!";
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	$hub->wait_up;
	return $hub->wait_running;
}

# ---- settled, then a crash ----
$sandbox->fault(kind => 'timeout_after_effect', ms => 3000, match => { path => '/rest/customers', method => 'POST' });
my $id = $hub->write('Ada 1');
my $pid = $hub->hub_pid;
$hub->wait_idle;
my $attempts = attempts($id);
ok($attempts > 1, 'a create that was not answered was looked up');
crash($pid);
isnt($hub->value("SELECT sync.remote_id('customer', '$id', 'crm')"), '', 'what was bound is bound after a crash of the server');
$hub->wait_idle;
is(attempts($id), $attempts, '… and nothing of it is settled again');
$pid = $hub->hub_pid;
# The first changes after a start write whole pages to the WAL, and these go to disk by themselves.
foreach my $n (2 .. 5)
{
	$hub->rename($id, "Ada $n");
	is($hub->value("SELECT outcome FROM sync.wait_for('customer', '$id', 'crm')"), 'done', 'an application is told that a change has arrived');
}
$attempts += 4;
crash($pid);
$hub->wait_idle;
is(attempts($id), $attempts, '… which stays so, too');
is_deeply([ $hub->broken ], [], 'each change took effect once');

$node->stop;
done_testing();

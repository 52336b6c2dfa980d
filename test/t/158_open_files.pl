# A hub holds more connections than a process may have files open unless it asks for more.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['crm'], conf => "sync_ext.max_in_flight = 300\n",
	options => { crm => { max_in_flight => 150, rate_limit => '100000/s' } });
my $node = $hub->node;

# The server and all its processes, started by one that has this limit.
sub limit_files
{
	my ($limit) = @_;

	system('prlimit', "--pid=$$", "--nofile=$limit") == 0 or BAIL_OUT('prlimit failed');
	$node->restart;
	$hub->poll_until(q(SELECT count(*) = 1 FROM sync.worker WHERE state = 'running'));
	return;
}

# How many of those that are sent at once need a second attempt.
sub sent_again
{
	my ($n) = @_;
	my $before = $hub->value(q(SELECT max(attempt_id) FROM sync.outcome)) // 0;

	$hub->sandbox->fault(kind => 'latency', ms => 300, times => $n, match => { path => '/rest/customers', method => 'POST' });
	$hub->sql("SELECT sync.pause('crm')");
	$hub->sql(join '', map { $hub->insert_sql($hub->new_id, "n$_") } 1 .. $n);
	$hub->sql("SELECT sync.resume('crm')");
	$hub->wait_idle(120);
	$hub->sandbox->clear_faults;
	return $hub->value("SELECT count(*) FROM sync.outcome WHERE attempt_id > $before AND NOT final");
}

limit_files('160:4096');
my $limit = PostgreSQL::Test::Utils::slurp_file('/proc/' . $hub->hub_pid . '/limits');
my ($soft) = $limit =~ /^Max open files\s+(\d+)/m;
cmp_ok($soft, '>', 1000, "where it may, the hub has asked for more ($soft)");
is(sent_again(140), 0, 'and reaches a system on 140 connections');
is_deeply([ $hub->broken ], [], 'each delivery once');

# Where nothing more is to be had, that is said, and nothing is lost.
my $offset = $hub->log_size;
limit_files('160:160');
$node->wait_for_log(qr/160 open files are too few for \d+ connections/, $offset);
pass('too low a limit is said in the log');
sent_again(140);
is_deeply([ $hub->broken ], [], 'and each delivery arrives once nevertheless');
is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'invariants hold');

done_testing();

# The peers that benchmarks compare with: libcurl alone, and graphile-worker; and a
# system that takes a while (sink.c).
package SyncExt::Peers;

use strict;
use warnings;

use Exporter qw(import);
use File::Basename qw(dirname);
use Cwd qw(abs_path);
use PostgreSQL::Test::Utils ();

our @EXPORT = qw(curl_rate graphile_prepare graphile_rate start_sink);

my $bench = abs_path(dirname(__FILE__) . '/../../bench');

sub _output
{
	my (@command) = @_;
	open my $pipe, '-|', @command or die "cannot run $command[0]: $!";
	my $text = join '', <$pipe>;

	close $pipe or die "$command[0] failed: $text";
	return $text;
}

# A system that answers delay_ms after each request; returns its base URL and the
# file in which it writes when each came. Ends with this process.
my @sinks;

sub start_sink
{
	my ($delay_ms) = @_;
	my $log = PostgreSQL::Test::Utils::tempdir('sink') . '/log';
	my $pid = open my $pipe, '-|', "$bench/sink", $delay_ms, $log or die "cannot run the sink: $!";
	my $port = <$pipe> // die 'the sink does not start';

	chomp $port;
	push @sinks, $pid, $pipe;
	return ("http://127.0.0.1:$port", $log);
}

# Requests a second that libcurl's multi interface makes, recording nothing.
sub curl_rate
{
	my ($url, $requests, $connections) = @_;
	return 0 + _output("$bench/curl_bare", $url, $requests, $connections, 1024);
}

sub _connection
{
	my ($node, $database) = @_;
	return 'postgresql://postgres@/' . $database . '?host=' . $node->host . '&port=' . $node->port;
}

# Puts so many jobs into graphile-worker's queue in a database of its own.
sub graphile_prepare
{
	my ($node, $jobs) = @_;
	my $has = $node->safe_psql('postgres', q(SELECT count(*) FROM pg_database WHERE datname = 'peer'));

	if (!$has)
	{
		$node->safe_psql('postgres', 'CREATE DATABASE peer');
		_output('node', "$bench/peers/node_modules/.bin/graphile-worker", '--schema-only', '-c',
			_connection($node, 'peer'));
	}
	$node->safe_psql('peer', "SELECT count(graphile_worker.add_job('deliver', '{}')) FROM generate_series(1, $jobs);
		VACUUM ANALYZE graphile_worker._private_jobs");
	return;
}

# Jobs a second, from the start of the worker until every completion is on record.
sub graphile_rate
{
	my ($node, $url, $jobs) = @_;
	my ($rate) = _output('node', "$bench/peers/graphile.mjs", _connection($node, 'peer'), $url, $jobs)
	  =~ /^rate (\d+)/m;

	return $rate;
}

END
{
	my $status = $?;

	kill 'TERM', grep { !ref } @sinks;
	$? = $status;
}

1;

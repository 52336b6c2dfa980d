# What the benchmarks share: a server with production settings, interleaved pairs,
# and one line of result each.
#
#   my @pairs = interleave(5, \&ours, \&theirs);         # [ours, theirs], A B B A A B …
#   report('push.fast_sink.vs_libcurl', [ ratios(@pairs) ], '>=', 0.40);
#
# A benchmark's file names its lines in a comment, `# bench: push.fast_sink.vs_libcurl …`;
# `make bench NAME=push.fast` runs the files with a line that begins so. `wanted()` tells a
# file that holds several which of them to measure.
package SyncExt::Bench;

use strict;
use warnings;

use Exporter qw(import);
use List::Util qw(max min);
use PostgreSQL::Test::Utils ();
use SyncExt::Cluster;
use Test::More ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our @EXPORT = qw(bench_cluster cpu_seconds customer_tps hub_pid interleave long median note peak_kb ratios recycle_wal
  report seconds settle_disk start_nginx wanted warm_buffers);

my $long = $ENV{LONG} // '';
my $name = $ENV{NAME} // '';
my $results = $ENV{BENCH_RESULTS};

sub long { return $long eq '1' }

# Whether `make bench NAME=…` asks for this line.
sub wanted { return index($_[0], $name) == 0 || index($name, $_[0]) == 0 }

# A server as one would run it: fsync on, memory for the tables, the extension in
# database `hub` and adopted. Options as SyncExt::Cluster; allow: a base URL that
# the hub may speak to.
sub bench_cluster
{
	my ($cluster, %option) = @_;
	my $conf = join "\n", 'fsync = on', 'shared_buffers = 1GB', 'max_wal_size = 8GB',
	  'checkpoint_timeout = 30min', 'wal_level = replica', 'max_connections = 100', '';

	# The last of two equal settings counts, so these come after the cluster's own.
	$conf .= "sync_ext.allowed_hosts = '$option{allow}'\n" if defined $option{allow};
	$conf .= $option{conf} // '';
	my $node =
	  SyncExt::Cluster->new($cluster, database => $option{database} // 'hub', conf => $conf);

	$node->sql('SELECT sync.adopt_cluster()');
	return $node;
}

# A server that has run for a while writes over its old WAL files, and makes no new ones.
sub recycle_wal
{
	my ($node, $files) = @_;

	foreach (1 .. $files)
	{
		$node->sql(q(SELECT pg_logical_emit_message(false, 'bench', 'a file')));
		$node->sql('SELECT pg_switch_wal()');
	}
	$node->sql('CHECKPOINT');
	return;
}

# Likewise its buffers have all been used: a page that is touched for the first time costs the kernel a
# page of memory to clear, and that is no work of the hub's.
sub warm_buffers
{
	my ($node) = @_;

	$node->sql('CREATE UNLOGGED TABLE filler (text text)');
	$node->sql('ALTER TABLE filler ALTER text SET STORAGE PLAIN');
	$node->sql(q(INSERT INTO filler SELECT repeat('x', 8000)
		FROM generate_series(1, (SELECT setting::bigint FROM pg_settings WHERE name = 'shared_buffers'))));
	$node->sql('DROP TABLE filler');
	return;
}

# What was written to prepare is no work of the kernel's while it is measured.
sub settle_disk
{
	system('sync') == 0 or die 'sync failed';
	return;
}

# Runs both sides n times, first the one and then the other of them first.
sub interleave
{
	my ($n, $ours, $theirs) = @_;
	my @pairs;

	foreach my $i (1 .. $n)
	{
		my ($ours_value, $theirs_value);

		$ours_value = $ours->() if $i % 2;
		$theirs_value = $theirs->();
		$ours_value = $ours->() if $i % 2 == 0;
		push @pairs, [ $ours_value, $theirs_value ];
	}
	return @pairs;
}

sub ratios { return map { $_->[0] / $_->[1] } @_ }

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	my $half = int(@sorted / 2);

	return @sorted % 2 ? $sorted[$half] : ($sorted[ $half - 1 ] + $sorted[$half]) / 2;
}

sub number
{
	my ($value) = @_;
	return abs($value) >= 100 ? sprintf('%.0f', $value) : sprintf('%.3g', $value);
}

# `name value target spread ok|short`: the median of the values against the target,
# and the lowest and highest of them.
sub report
{
	my ($line, $values, $relation, $target, $unit) = @_;
	my $value = median(@$values);
	my $ok = $relation eq '>=' ? $value >= $target : $value <= $target;
	my $text = sprintf "%-32s %s%s %s%s%s %s..%s %s\n", $line, number($value), $unit // '', $relation,
	  number($target), $unit // '', number(min @$values), number(max @$values), $ok ? 'ok' : 'short';

	_say($text);
	return if !defined $results;
	open my $file, '>>', $results or die "cannot write $results: $!";
	print $file $text;
	close $file;
	return;
}

# To where this program was started; the server's test modules have turned STDOUT into a log.
sub _say
{
	my $out = Test::More->builder->output;

	print $out @_;
	$out->flush;
	return;
}

sub note
{
	_say(map { "    $_\n" } map { split /\n/ } @_);
	return;
}

# How long something takes.
sub seconds
{
	my ($work) = @_;
	my $began = clock_gettime(CLOCK_MONOTONIC);

	$work->();
	return clock_gettime(CLOCK_MONOTONIC) - $began;
}

# Transactions a second of four pgbench clients, each of which inserts a row into SCHEMA.customer.
sub customer_tps
{
	my ($node, $schema, $seconds) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir('pgbench') . "/$schema.sql";

	open my $file, '>', $script or die "cannot write: $!";
	print $file <<"SQL";
INSERT INTO $schema.customer (number, name, billing_email, billing_address)
VALUES (gen_random_uuid()::text, 'Aster Bakery Ltd', 'accounts\@aster.example',
	'{"line1": "1 High Street", "city": "Leeds", "postal_code": "LS1 1AA", "country": "GB"}');
SQL
	close $file;
	my ($out, $err) = PostgreSQL::Test::Utils::run_command(
		[
			'pgbench', '-n', '-M', 'prepared', '-c', 4, '-j', 2, '-T', $seconds, '-h', $node->host, '-p', $node->port,
			'-f', $script, $node->database
		]);
	my ($tps) = $out =~ /^tps = ([\d.]+)/m or die "no rate from pgbench: $err";

	return $tps;
}

sub hub_pid
{
	my ($node) = @_;
	my ($pid) = $node->worker_pids('%hub%');

	return $pid;
}

# Processor time of a process with its threads, and its peak memory.
sub cpu_seconds
{
	my ($pid) = @_;
	my $ns = 0;

	foreach my $file (glob "/proc/$pid/task/*/schedstat")
	{
		my $text = eval { PostgreSQL::Test::Utils::slurp_file($file) } // next;
		$ns += (split ' ', $text)[0];
	}
	return $ns / 1e9;
}

sub peak_kb
{
	my ($pid) = @_;
	my ($kb) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+)/m;

	return $kb;
}

# An nginx on a free loopback port with these lines in its server block; ends with
# this process. Returns its base URL.
my @nginx;

sub start_nginx
{
	my ($server, %option) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir('nginx');
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $http = $option{http} // '';

	open my $file, '>', "$dir/nginx.conf" or die "cannot write: $!";
	print $file <<"CONF";
pid $dir/pid;
error_log $dir/error.log;
worker_processes 1;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path $dir/body;
	proxy_temp_path $dir/proxy;
	fastcgi_temp_path $dir/fastcgi;
	uwsgi_temp_path $dir/uwsgi;
	scgi_temp_path $dir/scgi;
	client_body_buffer_size 64k;
	keepalive_requests 100000000;
	keepalive_timeout 600s;
	$http
	server {
		listen 127.0.0.1:$port backlog=4096;
		$server
	}
}
CONF
	close $file;
	system('nginx', '-p', $dir, '-c', "$dir/nginx.conf", '-e', "$dir/error.log") == 0
	  or die 'nginx does not start';
	push @nginx, "$dir/pid";
	return "http://127.0.0.1:$port";
}

END
{
	my $status = $?;

	foreach my $file (@nginx)
	{
		open my $handle, '<', $file or next;
		my ($pid) = (<$handle> // '') =~ /(\d+)/;
		kill 'TERM', $pid if defined $pid;
	}
	$? = $status;
}

1;

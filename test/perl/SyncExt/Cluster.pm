# PostgreSQL::Test::Cluster with sync_ext preloaded and its secrets in place.
#
#   my $node = SyncExt::Cluster->new('main');            # initialised and started
#   my $node = SyncExt::Cluster->new('main', start => 0, conf => "sync_ext.x = 1\n");
#   $node->secret('billing', 'key', 'sk_test_1');        # then OPTIONS (key 'file:key')
#   $node->sql('...'), $node->value('SELECT ...'), $node->poll_until('SELECT ...')
#
# Everything else of PostgreSQL::Test::Cluster works as ever. SYNC_EXT_DESTDIR
# and SYNC_EXT_LIBDIR say where `make check` has put the extension.
package SyncExt::Cluster;

use strict;
use warnings;

use parent 'PostgreSQL::Test::Cluster';
use Carp qw(croak);
use File::Path qw(make_path);
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(sleep time);

# A server that runs in valgrind takes many times as long.
our $patience = $ENV{SYNC_EXT_PATIENCE} // 1;

# Options: start (default yes), conf (lines for postgresql.conf), init (what
# init() takes), database (one to make, with the extension, and to work in),
# bare (only make the object; then for example init_from_backup and configure).
sub new
{
	my ($class, $name, %option) = @_;
	my $self = $class->SUPER::new($name);

	$self->{sync_database} = $option{database} // 'postgres';
	return $self if $option{bare};
	$self->init(allows_streaming => 1, %{ $option{init} // {} });
	$self->configure($option{conf});
	if ($option{start} // 1)
	{
		$self->start;
		$self->create_extension($option{database}) if defined $option{database};
	}
	return $self;
}

# Everything this extension needs in postgresql.conf, then the caller's lines.
sub configure
{
	my ($self, $conf) = @_;
	my $secrets = $self->secrets_dir;

	make_path($secrets, { mode => 0700 });
	$self->append_conf('postgresql.conf', <<"EOF");
shared_preload_libraries = 'sync_ext'
sync_ext.secrets_dir = '$secrets'
max_prepared_transactions = 20
max_worker_processes = 20
max_connections = 40
shared_buffers = 16MB
EOF
	if ($ENV{SYNC_EXT_DESTDIR})
	{
		$self->append_conf('postgresql.conf', <<"EOF");
extension_destdir = '$ENV{SYNC_EXT_DESTDIR}'
dynamic_library_path = '$ENV{SYNC_EXT_LIBDIR}:\$libdir'
EOF
	}
	$self->append_conf('postgresql.conf', $conf) if defined $conf;
}

# Beside the data directory, since a copy of the data must not carry it along.
sub secrets_dir { return $_[0]->basedir . '/secrets' }

# Write a secret; `file:$name` then refers to it.
sub secret
{
	my ($self, $system, $name, $value) = @_;
	my $dir = $self->secrets_dir . "/$system";

	make_path($dir, { mode => 0700 });
	open my $file, '>', "$dir/$name.new" or croak "cannot write $dir/$name: $!";
	print $file $value;
	close $file or croak "cannot write $dir/$name: $!";
	chmod 0600, "$dir/$name.new";
	rename "$dir/$name.new", "$dir/$name" or croak "cannot write $dir/$name: $!";
}

sub database { return $_[0]{sync_database} }

sub create_extension
{
	my ($self, $database) = @_;
	$self->safe_psql('postgres', qq(CREATE DATABASE "$database")) if $database ne 'postgres';
	$self->safe_psql($database, 'CREATE EXTENSION sync_ext');
}

# Run statements in the test's database and return what they print; an error
# ends the test.
sub sql
{
	my ($self, $statements, %param) = @_;
	return $self->safe_psql($self->database, $statements, %param);
}

# The first column of the first row.
sub value
{
	my ($self, $query) = @_;
	my ($line) = split /\n/, $self->sql($query);
	my ($value) = split /\|/, $line // '';
	return $value;
}

# Wait until the query is true; dies with its last answer when time is up.
sub poll_until
{
	my ($self, $query, $seconds) = @_;
	my $deadline = time + (defined $seconds ? $seconds * $patience : $PostgreSQL::Test::Utils::timeout_default);
	my ($status, $out, $err);

	do
	{
		($status, $out, $err) = $self->psql($self->database, $query);
		return 1 if $status == 0 && $out eq 't';
		sleep 0.1;
	} while (time < $deadline);
	croak "still not true: $query\nanswer: $out $err";
}

# Until no delivery, pull or document is left to do; see sync.wait_idle.
sub wait_idle
{
	my ($self, $seconds) = @_;
	$seconds = ($seconds // 60) * $patience;
	return $self->sql("SELECT sync.wait_idle(interval '$seconds seconds')",
		timeout => $seconds + 30);
}

# Process ids of the extension's workers, as pg_stat_activity tells them; TYPE
# restricts them, as in worker_pids('%hub%').
sub worker_pids
{
	my ($self, $type) = @_;
	my $filter = defined $type ? "backend_type LIKE '$type'" : "backend_type LIKE 'sync_ext%'";
	return split /\n/, $self->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE $filter ORDER BY pid");
}

# Kill one worker the hard way. The postmaster then restarts the whole server,
# so wait until it is back. Needs restart_after_crash, which is switched on.
sub kill9_worker
{
	my ($self, $type) = @_;
	my ($pid) = $self->worker_pids($type) or croak 'no worker to kill';
	my $offset = -s $self->logfile;

	$self->safe_psql('postgres', 'ALTER SYSTEM SET restart_after_crash = on');
	$self->reload;
	$self->poll_query_until('postgres', q(SELECT current_setting('restart_after_crash')), 'on');
	kill 'KILL', $pid or croak "cannot kill $pid: $!";
	$self->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	$self->poll_query_until('postgres', 'SELECT true') or croak 'the server does not come back';
	return $pid;
}

# Zeroes the WAL of a stopped standby from a location on, as if it had never come.
sub cut_wal
{
	my ($self, $lsn) = @_;
	my ($hi, $lo) = map { hex } split m{/}, $lsn;
	my $size = 16 * 1024 * 1024;
	my $segment = $hi * (2**32 / $size) + int($lo / $size);

	foreach my $file (glob $self->data_dir . '/pg_wal/0000000?0*')
	{
		my ($name) = $file =~ /([0-9A-F]{24})$/ or next;
		my $number = hex(substr($name, 8, 8)) * (2**32 / $size) + hex(substr($name, 16, 8));
		next if $number < $segment;
		open my $handle, '+<:raw', $file or croak "cannot open $file: $!";
		my $from = $number == $segment ? $lo % $size : 0;
		seek $handle, $from, 0;
		print $handle "\0" x ($size - $from);
		close $handle or croak "cannot write $file: $!";
	}
	return;
}

1;

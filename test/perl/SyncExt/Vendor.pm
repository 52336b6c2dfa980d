# A vendor of a test's own: it answers with the very bytes that the test wants.
#
#   my $vendor = SyncExt::Vendor->start(sub {
#       my ($request, $vendor) = @_;      # {n, method, path, body}; n counts from 1
#       return SyncExt::Vendor::json({ data => [] });
#   });
#   $vendor->url, $vendor->requests       # [{method, path}, ...]
#   $vendor->set(mode => 'odd');          # and in the sub: $vendor->get('mode')
#
# The sub runs in a child process: what it changes stays there, so set() and
# get() go through files. One connection serves one request.
package SyncExt::Vendor;

use strict;
use warnings;

use Carp qw(croak);
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils ();

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

sub start
{
	my ($class, $answer) = @_;
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 64, ReuseAddr => 1)
	  or croak "cannot listen: $!";
	my $self = bless { port => $socket->sockport, dir => PostgreSQL::Test::Utils::tempdir('vendor'),
		answer => $answer, owner => $$ }, $class;

	$self->{pid} = fork // croak "cannot fork: $!";
	if (!$self->{pid})
	{
		$self->_serve($socket);
		POSIX::_exit(0);
	}
	close $socket;
	return $self;
}

sub port { return $_[0]{port} }
sub url { return "http://127.0.0.1:$_[0]{port}" }

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid};

	return if !$pid || $self->{owner} != $$;
	local ($?, $!);
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY { $_[0]->stop; return }

sub set
{
	my ($self, $name, $value) = @_;

	open my $file, '>', "$self->{dir}/$name.new" or croak "cannot write $name: $!";
	print $file $value;
	close $file or croak "cannot write $name: $!";
	rename "$self->{dir}/$name.new", "$self->{dir}/$name" or croak "cannot write $name: $!";
	return;
}

sub get
{
	my ($self, $name) = @_;

	return undef if !-e "$self->{dir}/$name";
	return PostgreSQL::Test::Utils::slurp_file("$self->{dir}/$name");
}

sub requests
{
	my ($self) = @_;

	return [ map { $json->decode($_) } split /\n/, $self->get('requests') // '' ];
}

# A whole answer around a body.
sub answer
{
	my ($status, $body, @header) = @_;

	return join "\r\n", "HTTP/1.1 $status Whatever", 'Content-Type: application/json', @header,
	  'Content-Length: ' . length($body), 'Connection: close', '', $body;
}

sub json { my ($data, @header) = @_; return answer(200, $json->encode($data), @header) }

sub _serve
{
	my ($self, $socket) = @_;
	my $n = 0;

	$SIG{PIPE} = 'IGNORE';
	while (my $client = $socket->accept)
	{
		my $head = '';
		while ($head !~ /\r\n\r\n/ && sysread $client, my $part, 65536)
		{
			$head .= $part;
		}
		my ($method, $path) = $head =~ /^(\S+) (\S+)/ or next;
		my ($length) = $head =~ /\r\ncontent-length: (\d+)/i;
		my (undef, $body) = split /\r\n\r\n/, $head, 2;
		while (defined $length && length $body < $length && sysread $client, my $part, 65536)
		{
			$body .= $part;
		}
		open my $log, '>>', "$self->{dir}/requests" or die "cannot log: $!";
		print $log $json->encode({ method => $method, path => $path, body => $body }), "\n";
		close $log;
		my $bytes = $self->{answer}->({ n => ++$n, method => $method, path => $path, body => $body }, $self);
		while (length $bytes)
		{
			my $sent = syswrite $client, $bytes or last;
			substr $bytes, 0, $sent, '';
		}
		close $client;
	}
	return;
}

1;

package SyncExt::Sandbox;

=head1 NAME

SyncExt::Sandbox - starts the sandbox for a test and talks to it

=head1 SYNOPSIS

  use SyncExt::Sandbox;

  my $sandbox = SyncExt::Sandbox->start(seed => 7);
  my ($status, $customer) =
    $sandbox->stripe(POST => '/v1/customers', { email => 'a@example.com' },
      { 'Idempotency-Key' => 'k1' });
  $sandbox->fault(kind => 'reset_after', match => { path => '/v1/customers' });
  is($sandbox->key('k1')->{executions}, 1);

The server ends with the object, and with the test process at the latest,
unless it was started with C<< keep => 1 >>.

=cut

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IPC::Open3 qw(open3);
use JSON::PP;
use POSIX qw(:sys_wait_h);
use Scalar::Util qw(blessed);
use Socket qw(IPPROTO_TCP TCP_NODELAY);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

# The names of start's options that the server knows too.
my @server_options =
  qw(port port_file tls_cert tls_key key idempotency_ttl clock_start seed);

sub binary
{
	return $ENV{SYNC_EXT_SANDBOX} // abs_path(dirname(__FILE__) . '/../../sandbox/sandbox')
	  // 'test/sandbox/sandbox';
}

sub start
{
	my ($class, %opt) = @_;
	my $binary = delete $opt{binary} // binary();
	my $key = $opt{key} // 'sk_test_sandbox';
	my $keep = delete $opt{keep};
	my @command = ($binary, $keep ? () : '--exit-with-parent');

	-x $binary or croak "no sandbox at $binary; build it with 'make -C test/sandbox'";
	foreach my $name (@server_options)
	{
		my $value = delete $opt{$name};
		next unless defined $value;
		(my $option = "--$name") =~ tr/_/-/;
		push @command, $option, $value;
	}
	croak 'unknown option: ' . join(', ', sort(CORE::keys(%opt))) if %opt;

	# Our end of its stdin is what keeps it alive.
	my $pid = open3(my $in, my $out, '>&STDERR', @command);
	my $line = <$out> // '';
	my ($url, $port) = $line =~ m{^listening on (https?://127\.0\.0\.1:(\d+))}
	  or croak "the sandbox did not start: $line";

	return bless {
		pid => $pid, keep => $keep, stdin => $in, owner => $$, url => $url, port => $port, key => $key,
		http => HTTP::Tiny->new(timeout => 30, max_redirect => 0, keep_alive => 1,
			verify_SSL => 0),
	}, $class;
}

sub url { return $_[0]{url}; }
sub port { return $_[0]{port}; }
sub pid { return $_[0]{pid}; }
sub api_key { return $_[0]{key}; }

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid};

	# A fork of the test must not end its parent's server.
	return if !$pid || $self->{owner} != $$;
	local ($?, $!);
	kill 'TERM', $pid;
	waitpid($pid, 0);
	return;
}

sub DESTROY { $_[0]->stop if !$_[0]{keep}; return; }

# One HTTP request. Returns HTTP::Tiny's answer; status 599 is a broken one.
sub http
{
	my ($self, $method, $path, $headers, $content) = @_;
	my %options;

	$options{headers} = $headers if $headers && %$headers;
	$options{content} = $content if defined $content;
	my $answer = $self->{http}->request($method, $self->{url} . $path, \%options);

	# HTTP::Tiny writes head and body apart; without this every request on a
	# kept connection waits 40 ms for a delayed acknowledgement.
	my $handle = $self->{http}{handle};
	setsockopt($handle->{fh}, IPPROTO_TCP, TCP_NODELAY, 1) if $handle && $handle->{fh};
	return $answer;
}

# A control function. Dies if it fails: a test that goes on would mislead.
sub control
{
	my ($self, $method, $name, $body) = @_;
	my $answer = $self->http($method, "/_sandbox/$name", undef,
		defined $body ? $json->encode($body) : undef);

	croak "$method /_sandbox/$name: $answer->{status} $answer->{content}"
	  unless $answer->{success};
	return $json->decode($answer->{content});
}

sub _escape
{
	my ($text) = @_;

	utf8::encode($text);
	$text =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord($1))/ge;
	return $text;
}

sub _query
{
	my (%args) = @_;
	my @pairs = map { "$_=" . _escape($args{$_}) } grep { defined $args{$_} } sort(CORE::keys(%args));

	return @pairs ? '?' . join('&', @pairs) : '';
}

# fault(kind => …, match => {…}, times => …, …) returns the rule's number.
sub fault
{
	my ($self, %rule) = @_;

	return $self->control(POST => 'faults', \%rule)->{id};
}

# load([{object => 'invoice', id => …}, …], events => 1): whole objects as state, thousands at once.
# Members "_hidden" hold what the API does not show (payout of a balance_transaction). Returns how many.
sub load
{
	my ($self, $objects, %opt) = @_;
	my $loaded = 0;

	for (my $i = 0; $i < @$objects; $i += 5000)
	{
		my $last = $i + 4999 < $#$objects ? $i + 4999 : $#$objects;
		my $lines = join "\n", map { ref $_ ? $json->encode($_) : $_ } @$objects[ $i .. $last ];
		my $answer = $self->http(POST => '/_sandbox/load' . ($opt{events} ? '?events=1' : ''), undef, $lines);

		croak "load: $answer->{status} $answer->{content}" unless $answer->{success};
		$loaded += $json->decode($answer->{content})->{loaded};
	}
	return $loaded;
}

# tamper(invoice => 'in_1', set => {'lines.data.0.amount' => 99}, unset => ['due_date'], event => \0): changes
# an object as somebody at the vendor's desk would, with an event or (false) silently, and nothing else.
# delete => 1 deletes it, purge => 1 makes it as if it had never been. Returns the object.
sub tamper
{
	my ($self, $object, $id, %change) = @_;

	foreach my $flag (qw(delete purge))
	{
		$change{$flag} = $change{$flag} ? JSON::PP::true : JSON::PP::false if exists $change{$flag};
	}
	$change{event} = JSON::PP::false if exists $change{event} && (ref $change{event} || !$change{event});
	return $self->control(POST => 'tamper', { object => $object, id => $id, %change });
}

sub faults { return $_[0]->control(GET => 'faults'); }
sub clear_faults { return $_[0]->control(DELETE => 'faults'); }

sub keys { return $_[0]->control(GET => 'keys'); }

# What one idempotency key did; undef if it was never seen.
sub key
{
	my ($self, $key) = @_;

	return $self->control(GET => 'keys' . _query(key => $key))->[0];
}

# The vendor forgets the answer that it keeps under a key.
sub forget_key { return $_[0]->control(DELETE => 'keys' . _query(key => $_[1])) }

sub effects
{
	my ($self, $object, $id) = @_;

	return $self->control(GET => 'effects' . _query(object => $object, id => $id));
}

sub requests
{
	my ($self, %args) = @_;

	return $self->control(GET => 'requests' . _query(%args));
}

sub bill
{
	my ($self, %args) = @_;

	$args{advance} = $args{advance} ? JSON::PP::true : JSON::PP::false if exists $args{advance};
	return $self->control(POST => 'bill', \%args);
}

sub totals { return $_[0]->control(GET => 'totals'); }
sub stats { return $_[0]->control(GET => 'stats'); }

# Without arguments the clock's state, otherwise advance, set or freeze.
sub clock
{
	my ($self, %args) = @_;

	return $self->control(GET => 'clock') unless %args;
	$args{freeze} = $args{freeze} ? JSON::PP::true : JSON::PP::false if exists $args{freeze};
	return $self->control(POST => 'clock', \%args);
}

sub config
{
	my ($self, %settings) = @_;

	return %settings ? $self->control(POST => 'config', \%settings) : $self->control(GET => 'config');
}

# Forgets all objects, keys, faults and journals; config => 1 the settings too.
sub reset
{
	my ($self, %args) = @_;

	return $self->control(POST => 'reset', { config => $args{config} ? JSON::PP::true : JSON::PP::false });
}

sub _flatten
{
	my ($prefix, $value, $pairs) = @_;

	if (ref $value eq 'HASH')
	{
		_flatten($prefix eq '' ? $_ : $prefix . "[$_]", $value->{$_}, $pairs)
		  foreach sort CORE::keys %$value;
	}
	elsif (ref $value eq 'ARRAY')
	{
		_flatten($prefix . "[$_]", $value->[$_], $pairs) foreach 0 .. $#$value;
	}
	else
	{
		$value = $value ? 'true' : 'false' if blessed($value);
		push @$pairs, _escape($prefix) . '=' . _escape($value // '');
	}
	return;
}

# Nested data in Stripe's form encoding: {a => [{b => 1}]} is a[0][b]=1.
sub form
{
	my ($data) = @_;
	my @pairs;

	_flatten('', $data, \@pairs);
	return join('&', @pairs);
}

# A direct API call. In list context (status, decoded body, whole answer),
# in scalar context the body; the body is undef where it is no JSON.
sub stripe
{
	my ($self, $method, $path, $form, $headers) = @_;
	my %headers = (Authorization => "Bearer $self->{key}", %{ $headers // {} });
	my $content = $form && %$form ? form($form) : undef;

	if (defined $content && $method eq 'GET')
	{
		$path .= ($path =~ /\?/ ? '&' : '?') . $content;
		$content = undef;
	}
	$headers{'Content-Type'} = 'application/x-www-form-urlencoded' if defined $content;
	my $answer = $self->http($method, $path, \%headers, $content);
	my $body = eval { $json->decode($answer->{content}) };
	return wantarray ? ($answer->{status}, $body, $answer) : $body;
}

# The same for the plain JSON vendor under /rest.
sub rest
{
	my ($self, $method, $path, $data, $headers) = @_;
	my %headers = %{ $headers // {} };
	my $content = defined $data ? $json->encode($data) : undef;

	$headers{'Content-Type'} = 'application/json' if defined $content;
	my $answer = $self->http($method, "/rest$path", \%headers, $content);
	my $body = eval { $json->decode($answer->{content}) };
	return wantarray ? ($answer->{status}, $body, $answer) : $body;
}

1;

# A hub that cluster tests share: an app's table, a sandbox, and two systems on it.
#
#   my $hub = SyncExt::Hub->new('main');       # systems billing (keys) and crm (looked up)
#   $hub->write('Ada');                        # a customer; returns its id
#   $hub->rename($id, 'Ada 2');
#   $hub->wait_idle;
#   is_deeply([ $hub->broken ], []);           # lost, twice, out of order, invariants
#
# The app's table is app.customer, tracked as object customer. What it was told
# to hold is remembered here, so that broken() can compare every system's
# effects with it: each state once (or, without keys, repeated in place), in the
# order in which it was written.
package SyncExt::Hub;

use strict;
use warnings;

use Carp qw(croak);
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(make_path);
use PostgreSQL::Test::Utils ();
use SyncExt::Cluster;
use SyncExt::Sandbox;
use Time::HiRes qw(sleep time);

our $STRIPE_KEY = 'sk_test_sandbox';
our $REST_TOKEN = 'rest-token-4711';

# Options: systems (names of those to make), options (per system: OPTIONS of its
# server), conf (lines of postgresql.conf), node (do not make one), condition
# (of the routes), database, streams (pull, too).
sub new
{
	my ($class, $name, %option) = @_;
	my $self = bless {
		name => $name,
		database => $option{database} // 'hub',
		systems => $option{systems} // [ 'billing', 'crm' ],
		states => {},
		next => 1,
	}, $class;

	$self->{sandbox} = $option{sandbox} // SyncExt::Sandbox->start;
	$self->{crash_dir} = PostgreSQL::Test::Utils::tempdir('crash');
	$ENV{SYNC_EXT_CRASH_DIR} = $self->{crash_dir};
	my $conf = "restart_after_crash = on\n"
	  . "sync_ext.allowed_hosts = 'http://127.0.0.1:" . $self->{sandbox}->port . "'\n"
	  . "sync_ext.poll_interval = 500\nsync_ext.checkpoint_interval = 200\n"
	  . ($option{conf} // '');
	$self->{node} = SyncExt::Cluster->new($name, database => $self->{database}, conf => $conf);
	$self->set_up(%option) unless $option{bare};
	return $self;
}

sub node { return $_[0]{node} }
sub sandbox { return $_[0]{sandbox} }
sub database { return $_[0]{database} }
sub sql { my $self = shift; return $self->{node}->sql(@_) }
sub value { my $self = shift; return $self->{node}->value(@_) }
sub poll_until { my $self = shift; return $self->{node}->poll_until(@_) }

sub connector_file
{
	my ($name) = @_;
	my $file = abs_path(dirname(__FILE__) . "/../../connectors/$name.json");

	$file = abs_path(dirname(__FILE__) . "/../../../connectors/$name.json") if !defined $file || !-e $file;
	return $file;
}

sub manifest
{
	my ($name) = @_;
	return PostgreSQL::Test::Utils::slurp_file(connector_file($name));
}

# Manifests are read by the server's user from a string, so that any path does.
sub register
{
	my ($self, $name) = @_;
	my $text = manifest($name);

	return $self->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
}

my %kind = (
	billing => [ 'stripe', api_key => $STRIPE_KEY ],
	crm => [ 'rest', token => $REST_TOKEN ],
	bulk => [ 'rest_batch', token => $REST_TOKEN ],
);

# Where a system's records stand in the sandbox.
my %place = (billing => qr{^/v1/}, crm => qr{^/rest/customers\b}, bulk => qr{^/rest/bulk\b});

# Declares a system of one of the two kinds; options other than kind, secret (its
# value) and base_url go to CREATE SERVER.
sub add_system
{
	my ($self, $system, %option) = @_;
	my ($connector, $secret, $value) = @{ $kind{ delete $option{kind} // $system } };
	$value = delete $option{secret} if defined $option{secret};
	my $url = delete $option{base_url} // $self->{sandbox}->url;
	my $options = join ', ', map { "$_ '$option{$_}'" } sort keys %option;

	$self->{node}->secret($system, $secret, $value);
	$self->sql("CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector '$connector', "
		  . "base_url '$url'" . ($options ne '' ? ", $options" : '') . ");
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS ($secret 'file:$secret')");
}

sub set_up
{
	my ($self, %option) = @_;

	$self->sql('SELECT sync.adopt_cluster()');
	$self->sql(q{
		CREATE SCHEMA app;
		CREATE TABLE app.customer (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number text UNIQUE,
			name text NOT NULL, billing_email text, tax_exempt text NOT NULL DEFAULT 'none',
			billing_address jsonb, status text NOT NULL DEFAULT 'active');
		SELECT sync.track('app.customer', 'customer')});
	$self->register($_) foreach qw(stripe rest rest_batch);
	foreach my $system (@{ $self->{systems} })
	{
		my %server = (max_in_flight => 8, %{ $option{options}{$system} // {} });

		# Stripe's 60 s would be the length of every test of a look-up.
		$server{settle_time} //= '300 ms';
		$server{rate_limit} //= '1000/s';
		$self->add_system($system, %server);
		next if $option{no_routes};
		$self->sql("SELECT sync.create_route('$system', 'customer'"
			  . (defined $option{condition} ? ", '$option{condition}'" : '') . ')');
	}
	$self->wait_running unless $option{no_wait};
	return;
}

sub wait_running
{
	my ($self) = @_;
	return $self->poll_until(q(SELECT EXISTS (SELECT FROM sync.worker
		WHERE database = current_database() AND state = 'running')));
}

# ---- what the app does ----

# A new customer, in a transaction of its own.
sub write
{
	my ($self, $name, %column) = @_;
	my $id = $self->new_id;

	$self->sql($self->insert_sql($id, $name, %column));
	return $id;
}

sub new_id
{
	my ($self) = @_;
	return sprintf '00000000-0000-4000-8000-%012d', $self->{next}++;
}

# The statements; for transactions that a test makes itself.
sub insert_sql
{
	my ($self, $id, $name, %column) = @_;
	my $columns = join '', map { ", $_" } sort keys %column;
	my $values = join '', map { ", '$column{$_}'" } sort keys %column;

	push @{ $self->{states}{$id} }, $name;
	return "INSERT INTO app.customer (id, name$columns) VALUES ('$id', '$name'$values);";
}

sub rename_sql
{
	my ($self, $id, $name) = @_;

	push @{ $self->{states}{$id} }, $name;
	return "UPDATE app.customer SET name = '$name' WHERE id = '$id';";
}

sub rename { my ($self, @args) = @_; return $self->sql($self->rename_sql(@args)) }

# What was rolled back, or is to be judged by hand.
sub forget { my ($self, $id) = @_; return delete $self->{states}{$id} }

sub wait_idle
{
	my ($self, $seconds) = @_;
	my $done = $self->{node}->wait_idle($seconds // 60);

	croak "the hub is not idle:\n" . $self->sql('TABLE sync._unfinished') . "\n"
	  . $self->sql('SELECT * FROM sync.health()') if $done ne 't';
	return 1;
}

# ---- what the systems saw ----

# Names that a record had at a system, in order, with each effect's key.
sub effects_of
{
	my ($self, $system) = @_;
	my %body = map { $_->{id} => $_->{body} } @{ $self->{sandbox}->requests(limit => 5000) };
	my %seen;

	foreach my $effect (@{ $self->{sandbox}->effects })
	{
		my $rest = $effect->{path} =~ m{^/rest/};
		next if $effect->{path} !~ $place{$system};
		my $data = $rest ? { %{ $effect->{metadata} }, id => $effect->{external_id} }
		  : { id => $effect->{metadata}{sync_id}, name => _form_value($body{ $effect->{request} }, 'name') };
		next if !defined $data->{id};
		push @{ $seen{ $data->{id} } },
		  { name => $data->{name}, method => $effect->{method}, remote => $effect->{id},
			key => $effect->{idempotency_key} };
	}
	return \%seen;
}

sub _form_value
{
	my ($form, $name) = @_;
	my ($value) = ($form // '') =~ /(?:^|&)\Q$name\E=([^&]*)/;

	return undef if !defined $value;
	$value =~ tr/+/ /;
	$value =~ s/%([0-9A-Fa-f]{2})/chr(hex($1))/ge;
	return $value;
}

# Everything that is wrong with one record at one system. Updates that waited
# may have merged into the newest, so states may be missing in between, never
# the first creation twice, a state after a later one, or the last.
sub _wrong
{
	my ($system, $id, $states, $effects) = @_;
	my @wrong;
	my $at = -1;
	my %remote = map { $_->{remote} => 1 } @$effects;

	return ("$system: $id never arrived") if !@$effects;
	push @wrong, "$system: $id was made " . keys(%remote) . ' times' if keys %remote > 1;
	foreach my $effect (@$effects)
	{
		my ($found) = grep { $states->[$_] eq $effect->{name} } ($at < 0 ? 0 : $at) .. $#$states;

		if (!defined $found)
		{
			push @wrong, "$system: $id became '$effect->{name}' after '" . ($at < 0 ? '' : $states->[$at]) . "'";
			next;
		}
		push @wrong, "$system: $id became '$effect->{name}' twice" if $found == $at && $system eq 'billing';
		$at = $found;
	}
	push @wrong, "$system: $id ended as '" . $effects->[-1]{name} . "', not '$states->[-1]'"
	  if $effects->[-1]{name} ne $states->[-1];
	return @wrong;
}

# Empty when every change took effect once and in order, nothing is left in
# pending, and every invariant holds.
sub broken
{
	my ($self, %option) = @_;
	my @wrong;

	foreach my $system (@{ $option{systems} // $self->{systems} })
	{
		my $seen = $self->effects_of($system);
		foreach my $id (sort keys %{ $self->{states} })
		{
			push @wrong, _wrong($system, $id, $self->{states}{$id}, $seen->{$id} // []);
		}
	}
	foreach my $key (@{ $self->{sandbox}->keys })
	{
		push @wrong, "key $key->{key} was executed $key->{executions} times" if $key->{executions} > 1;
		push @wrong, "key $key->{key} stood for two requests" if $key->{mismatches};
	}
	push @wrong, map { "pending: $_" } split /\n/,
	  $self->sql('SELECT route_id, seq, record_id, state, code, message FROM sync.pending')
	  unless $option{pending};
	push @wrong, map { "invariant: $_" } split /\n/, $self->sql('SELECT * FROM sync.check_invariants()');
	return @wrong;
}

# ---- crashes ----

# kill, error or wait at a point of src (see src/core/crash.h).
sub arm
{
	my ($self, $point, $action) = @_;

	open my $file, '>', "$self->{crash_dir}/$point.new" or croak "cannot arm $point: $!";
	print $file "$action\n";
	close $file or croak "cannot arm $point: $!";
	CORE::rename "$self->{crash_dir}/$point.new", "$self->{crash_dir}/$point" or croak "cannot arm $point: $!";
	return;
}

sub disarm
{
	my ($self, $point) = @_;
	unlink "$self->{crash_dir}/$point", "$self->{crash_dir}/$point.reached";
	return;
}

sub armed { return -e "$_[0]{crash_dir}/$_[1]" }

# Waits until something is at a point that was armed with wait.
sub reached
{
	my ($self, $point) = @_;
	return _until("$point to be reached", sub { -e "$self->{crash_dir}/$point.reached" });
}

sub _until
{
	my ($what, $test, $seconds) = @_;
	my $deadline = time + ($seconds // 60) * $SyncExt::Cluster::patience;

	while (!$test->())
	{
		croak "waited in vain for $what" if time > $deadline;
		sleep 0.02;
	}
	return 1;
}

sub wait_until { my ($self, @args) = @_; return _until(@args) }

# The armed point has fired and the server has started anew.
# Statements whose commit makes the hub meet a point that kills it: their session may die before it hears of its commit.
sub sql_before_crash
{
	my ($self, $statements) = @_;

	$self->{node}->psql($self->{node}->database, $statements);
	return;
}

sub wait_crash
{
	my ($self, $point, $offset) = @_;

	_until("$point to fire", sub { !$self->armed($point) });
	$self->{node}->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	$self->wait_up;
	return;
}

sub wait_up
{
	my ($self) = @_;
	return _until('the server', sub {
		# A psql that is refused ends before it has read the statement, and that is a broken pipe.
		my ($status) = eval { $self->{node}->psql('postgres', 'SELECT 1') };
		return defined $status && $status == 0;
	});
}

sub log_size { return -s $_[0]{node}->logfile }

sub hub_pid { my ($self) = @_; return ($self->{node}->worker_pids('sync_ext hub'))[0] }

# All of the server at once, as when the machine fails; nothing gets to say goodbye.
sub power_off
{
	my ($self) = @_;
	my ($node) = $self->{node};
	my @pids = ($node->{_pid}, split /\s+/, `ps -o pid= --ppid $node->{_pid}`);

	kill 'KILL', grep { /^\d+$/ } @pids;
	_until('the server to be gone', sub { !grep { /^\d+$/ && kill 0, $_ } @pids });
	$node->{_pid} = undef;
	unlink $node->data_dir . '/postmaster.pid';
	return;
}

1;

# Backlogs for benchmarks: a hub with systems on an nginx that counts, an app's table of small rows,
# and the rate at which what waits is delivered.
#
#   my $b = SyncExt::Backlog->new('big', systems => 3);
#   $b->route(1);                      # system s1 gets the app's table
#   $b->pause; $b->write(10_000);
#   my $rate = $b->rate(1000, 8000);   # resumes; deliveries/s from the 1000th on, of 8000
package SyncExt::Backlog;

use strict;
use warnings;

use HTTP::Tiny;
use SyncExt::Bench;
use Time::HiRes qw(sleep time);

my $manifest = <<'JSON';
{"manifest": 1, "name": "counter", "version": "1", "base_url": "URL", "auth": {"type": "none"},
 "idempotency": {"header": "Idempotency-Key", "lifetime": "24 hours"},
 "objects": {"item": {"push": {"operations": {
	"create": {"method": "POST", "path": "/items", "body": {"id": "$.id", "name": "$.new.name", "v": "$.new.v"},
		"response": {"remote_id": "$.id"}},
	"update": {"method": "POST", "path": "/items/${remote.id}", "body": {"name": "$.new.name", "v": "$.new.v"},
		"response": {"remote_id": "$.id"}}}}}}}
JSON

# Of the object that has no route.
my $table = '(id bigint PRIMARY KEY, name text NOT NULL, v bigint NOT NULL)';

sub new
{
	my ($class, $name, %option) = @_;
	my $sink = start_nginx(<<'NGINX');
location /served { stub_status; }
location /items/ {
	default_type application/json;
	return 200 '{"id": "$uri"}';
}
location /items {
	default_type application/json;
	return 200 '{"id": "/items/$request_id"}';
}
NGINX
	my $node = bench_cluster($name, allow => $sink, conf => $option{conf});
	my $self = bless { node => $node, sink => $sink, http => HTTP::Tiny->new(keep_alive => 1), asked => 0,
		systems => $option{systems} // 1 }, $class;

	(my $json = $manifest) =~ s/URL/$sink/;
	$node->sql(qq{
		CREATE SCHEMA app;
		CREATE TABLE app.item $table;
		CREATE TABLE app.other $table;
		SELECT sync.track('app.item', 'item');
		SELECT sync.track('app.other', 'other');
		SELECT sync.register_connector(\$json\$$json\$json\$::jsonb)});
	$node->sql("CREATE SERVER s$_ FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'counter', base_url '$sink', max_in_flight '64')")
	  foreach 1 .. $self->{systems};
	return $self;
}

sub node { return $_[0]{node} }
sub pid { return hub_pid($_[0]{node}) }

# The app's table goes to the first n systems.
sub route
{
	my ($self, $n) = @_;

	foreach my $i (1 .. $self->{systems})
	{
		my $there = $self->node->value("SELECT count(*) FROM sync.route WHERE state = 'active' AND name = 'item_to_s$i'");

		$self->node->sql("SELECT sync.create_route('s$i', 'item')") if $i <= $n && !$there;
		$self->node->sql("SELECT sync.drop_route('item_to_s$i', force => true)") if $i > $n && $there;
	}
	$self->{routes} = $n;
	return;
}

sub each_system { my ($self, $function) = @_; return join ', ', map { "sync.$function('s$_')" } 1 .. $self->{systems} }

sub pause
{
	my ($self) = @_;
	my ($before, $now) = (-1, 0);

	$self->node->sql('SELECT ' . $self->each_system('pause'));
	while ($before != $now)
	{
		$before = $now;
		sleep 0.3;
		$now = $self->served;
	}
	return;
}

sub resume { my ($self) = @_; return $self->node->sql('SELECT ' . $self->each_system('resume')) }

sub write
{
	my ($self, $n, $what) = @_;
	$what //= 'item';
	my $first = ($self->{written}{$what} // 0) + 1;
	my $last = $self->{written}{$what} = $first + $n - 1;

	$self->node->sql("INSERT INTO app.$what SELECT i, 'item ' || i, i FROM generate_series($first, $last) i", timeout => 600);
	return;
}

# Requests that the sink has answered, without those of ours.
sub served
{
	my ($self) = @_;
	my ($count) = $self->{http}->get("$self->{sink}/served")->{content} =~ /^\s*\d+ \d+ (\d+)/m
	  or die 'the sink does not count';

	return $count - ++$self->{asked};
}

sub until_served
{
	my ($self, $count, $seconds) = @_;
	my $deadline = time + ($seconds // 120);

	sleep 0.005 while $self->served < $count && time < $deadline;
	my $served = $self->served;
	die "$served of $count requests came" if $served < $count;
	return time;
}

# Deliveries a second, of n, after those that the start takes.
sub rate
{
	my ($self, $skipped, $n) = @_;
	my $before = $self->served;

	$self->resume;
	my $from = $self->until_served($before + $skipped);
	my $at = $self->served;
	my $to = $self->until_served($at + $n);
	my $more = $self->served - $at;
	return $more / (time - $from);
}

# Memory of the hub that is its own, in MB; buffers of the server that it has touched are not.
sub own_mb
{
	my ($self) = @_;
	my $status = PostgreSQL::Test::Utils::slurp_file('/proc/' . $self->pid . '/status');
	my ($kb) = $status =~ /^RssAnon:\s+(\d+)/m;

	return $kb / 1024;
}

sub done { my ($self) = @_; return $self->node->value(q(SELECT count(*) FROM sync.outcome WHERE final AND outcome = 'done')) }

1;

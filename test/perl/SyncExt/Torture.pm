# Writers, vendors and disasters, all at once; then silence, and the question whether every
# committed change took effect once and in order.
#
#   my $torture = SyncExt::Torture->new(seed => 7, seconds => 60, promotions => 1);
#   my @wrong = $torture->run;
#
# The same seed makes the same choices. When they meet what the other processes do is the machine's
# business, so a run is not repeated to the letter.
package SyncExt::Torture;

use strict;
use warnings;

use Carp qw(croak);
use POSIX ();
use PostgreSQL::Test::Utils ();
use SyncExt::Cluster;
use SyncExt::Hub;
use SyncExt::Torture::App;
use SyncExt::Torture::Judge;
use SyncExt::Torture::Vendor;
use Time::HiRes qw(sleep time);

our @SYSTEMS = qw(billing bulk crm);
our $KEY_LIFETIME = 8;	  # seconds, as the manifest says
our $KEY_TTL = 11;		  # as the vendor keeps it: requests may be under way for a while

# Options: seed, seconds, writers, promotions (of a standby), say (called with a line of report).
sub new
{
	my ($class, %option) = @_;
	my $self = bless { writers => 4, promotions => 0, say => sub { }, %option, processes => {}, later => [], acts => {}, took_over => [] }, $class;

	$self->{dir} = PostgreSQL::Test::Utils::tempdir('torture');
	$self->{sandbox} = SyncExt::Sandbox->start(seed => $self->{seed}, idempotency_ttl => $KEY_TTL);
	$self->{sandbox}->config(rest_token => $SyncExt::Hub::REST_TOKEN, search_lag_ms => 1000, rest_forget => ', 4');
	$self->{hub} = SyncExt::Hub->new("torture$self->{seed}", sandbox => $self->{sandbox}, systems => [], bare => 1,
		conf => "wal_keep_size = 512MB\nmax_connections = 60\nlog_lock_waits = on\nsync_ext.max_attempts = 1000\nlog_min_duration_statement = 2000\n");
	$self->set_up;
	return $self;
}

sub hub { return $_[0]{hub} }
sub node { return $_[0]{hub}{node} }
sub sandbox { return $_[0]{sandbox} }

sub set_up
{
	my ($self) = @_;
	my $hub = $self->{hub};

	$hub->sql('SELECT sync.adopt_cluster()');
	$hub->sql($SyncExt::Torture::App::schema);
	$hub->sql($SyncExt::Torture::App::tracking);
	$self->{version} = 1;
	$self->register;
	my %server = (max_in_flight => 8, rate_limit => '400/s', timeout => '2 s', settle_time => '2500 ms', base_url => $hub->sandbox->url);
	my @rest = (token => $SyncExt::Hub::REST_TOKEN);
	foreach my $system ([ billing => 'torture_stripe', api_key => $SyncExt::Hub::STRIPE_KEY ], [ bulk => 'torture_batch', @rest ], [ crm => 'torture_rest', @rest ])
	{
		my ($name, $connector, $secret, $value) = @$system;
		my $options = join ', ', map { "$_ '$server{$_}'" } sort keys %server;

		$hub->node->secret($name, $secret, $value);
		$hub->sql("CREATE SERVER $name FOREIGN DATA WRAPPER sync_ext OPTIONS (connector '$connector', $options);
			CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS ($secret 'file:$secret')");
		$hub->sql("SELECT sync.create_route('$name', object) FROM unnest('{customer,price,subscription}'::text[]) object");
	}
	$hub->sql("SELECT sync.create_stream(system, object, '1 s') FROM (VALUES ('crm', 'customer'), ('crm', 'price'), "
		  . "('crm', 'subscription'), ('billing', 'customer'), ('billing', 'subscription')) t (system, object)");
	$hub->wait_running;
	$self->make_standby if $self->{promotions};
	return;
}

# The manifests, under a new version.
sub register
{
	my ($self) = @_;
	my $version = $self->{version}++;

	foreach my $text (SyncExt::Torture::Vendor::rest(), SyncExt::Torture::Vendor::batch(), SyncExt::Torture::Vendor::stripe($KEY_LIFETIME))
	{
		$text =~ s/"version":\s*"1"/"version": "$version"/;
		$self->try("SELECT sync.register_connector(\$m\$$text\$m\$::jsonb)");
	}
	return;
}

# A statement that may fail: the server may be on its way down.
sub try
{
	my ($self, $sql) = @_;
	my ($status, $out) = eval { $self->node->psql('hub', $sql, timeout => 60) };
	return defined $status && $status == 0 ? $out // '' : undef;
}

sub all_systems
{
	my ($self, $what) = @_;
	return $self->try('SELECT ' . join ', ', map { "sync.$what('$_')" } @SYSTEMS);
}

# ---- other processes ----

# What writers read before each session: go, hold or stop, and where the server is.
sub tell
{
	my ($self, $word) = @_;
	my $file = "$self->{dir}/word";

	open my $handle, '>', "$file.new" or croak "cannot write $file: $!";
	print $handle "$word\n", $self->node->connstr('hub'), "\n";
	close $handle or croak "cannot write $file: $!";
	rename "$file.new", $file or croak "cannot write $file: $!";
	return;
}

sub told
{
	my ($self) = @_;
	open my $handle, '<', "$self->{dir}/word" or return ('hold', '');
	chomp(my @lines = <$handle>);
	return @lines;
}

# Runs a step in a process of its own until it is told to stop; while it holds, its file says so.
sub start_process
{
	my ($self, $name, $step) = @_;
	my $holds = "$self->{dir}/holds.$name";
	my $pid = fork() // croak "cannot fork: $!";

	if ($pid)
	{
		$self->{processes}{$name} = $pid;
		return;
	}
	while (1)
	{
		my ($word, $connstr) = $self->told;

		last if $word eq 'stop';
		if ($word eq 'hold')
		{
			open my $mark, '>', $holds;
			sleep 0.05;
			next;
		}
		unlink $holds;
		eval { $step->($connstr); 1 } or sleep 0.2;
	}
	POSIX::_exit(0);
}

sub start_writer
{
	my ($self, $number) = @_;
	my $app;

	return $self->start_process("writer$number", sub {
		my ($connstr) = @_;
		$app //= SyncExt::Torture::App->new($number, $self->{seed});
		my $batch = $app->batch;
		open my $psql, '|-', "timeout 120 psql -XqAt -d '$connstr' >> $self->{dir}/writer$number.log 2>&1" or die $!;
		print $psql $batch;
		close $psql;
		sleep 0.05 + rand 0.3;
	});
}

sub start_vendor
{
	my ($self) = @_;
	my $vendor;

	return $self->start_process('vendor', sub {
		$vendor //= SyncExt::Torture::Vendor->new($self->{sandbox}, $self->{seed});
		# What it makes must be here before a standby that lags may lose it again.
		$vendor->change(!-e "$self->{dir}/no_more");
		if (open my $count, '>', "$self->{dir}/made.new")
		{
			print $count $vendor->{made};
			close $count;
			rename "$self->{dir}/made.new", "$self->{dir}/made";
		}
		sleep 0.1 + rand 0.3;
	});
}

sub hold_all
{
	my ($self) = @_;

	$self->tell('hold');
	SyncExt::Hub::_until('everybody to hold', sub { !grep { !-e "$self->{dir}/holds.$_" } keys %{ $self->{processes} } }, 150);
	return;
}

sub go_on
{
	my ($self) = @_;

	unlink "$self->{dir}/holds.$_" foreach keys %{ $self->{processes} };
	$self->tell('go');
	return;
}

# ---- disasters ----

sub wait_gone
{
	my (@pids) = @_;
	return SyncExt::Hub::_until('the server to be gone', sub { !grep { kill 0, $_ } @pids });
}

# A prepared transaction whose locks, and whose events, outlive what comes next; somebody ends it afterwards.
sub leave_prepared
{
	my ($self) = @_;
	my $gid = 'across-' . ++$self->{across};
	my ($n, $verb) = (1 + int rand 200, rand() < 0.7 ? 'COMMIT' : 'ROLLBACK');

	$self->try("SET lock_timeout = '1 s'; BEGIN; SELECT app.put_customer($n, 'prepared $gid'); SELECT app.put_subscription($n, 'all', $n, NULL); PREPARE TRANSACTION '$gid'");
	$self->later(rand 5, sub { $self->try("$verb PREPARED '$gid'") });
	return;
}

sub kill_hub
{
	my ($self) = @_;
	my ($pid) = eval { $self->hub->hub_pid } or return;

	$self->leave_prepared if rand() < 0.5;
	kill 'KILL', $pid;
	SyncExt::Hub::_until('the hub to be gone', sub { !kill 0, $pid });
	$self->hub->wait_up;
	return;
}

# Its children notice by themselves.
sub kill_postmaster
{
	my ($self) = @_;
	my $node = $self->node;
	$self->leave_prepared;
	my @pids = ($node->{_pid}, grep { /^\d+$/ } split /\s+/, `ps -o pid= --ppid $node->{_pid}`);

	kill 'KILL', $node->{_pid};
	wait_gone(@pids);
	$node->{_pid} = undef;
	unlink $node->data_dir . '/postmaster.pid';
	$node->start;
	return;
}

sub make_standby
{
	my ($self) = @_;
	my $number = ++$self->{standbys};
	my $standby = SyncExt::Cluster->new("standby$self->{seed}_$number", bare => 1, database => 'hub');

	$self->node->backup("base$number");
	$standby->init_from_backup($self->node, "base$number", has_streaming => 1);
	$standby->append_conf('postgresql.conf', "hot_standby = on\n");
	$standby->start;
	$self->{standby} = $standby;
	return;
}

# Vendors have changed nothing that is not here: the server that is lost would pull it and send it on to the other
# system, and nobody could tell the one that takes over. (Only a comparison finds that; health() asks for one.)
sub wait_all_read
{
	my ($self) = @_;
	my $now = $self->hub->value('SELECT clock_timestamp()');

	# Pages may be as late as a second.
	$self->hub->wait_until('everything to be read', sub {
		$self->end_prepared;
		($self->try("SELECT bool_and(coalesce(s.read_until > '$now'::timestamptz + interval '1.5 s', false)) FROM sync.stream_status s") // '') eq 't' }, 120);
	return;
}

# The standby has every change that was committed, and lags in what the hub did about them. (A commit that an
# asynchronous standby never got cannot be taken back at the systems.)
sub promote
{
	my ($self) = @_;
	my ($node, $standby) = ($self->node, $self->{standby});

	$self->all_systems('resume');
	SyncExt::Torture::Vendor::misbehave($self->{sandbox}, 1);
	PostgreSQL::Test::Utils::append_to_file("$self->{dir}/no_more", '');
	sleep 1;
	# A prepared transaction that nobody ends may hold up a page, so the writers go on meanwhile.
	my $made = -e "$self->{dir}/made" ? PostgreSQL::Test::Utils::slurp_file("$self->{dir}/made") : 0;
	$self->hub->wait_until('what the vendors made', sub {
		$self->end_prepared;
		($self->try('SELECT count(*) FROM app.customer WHERE slot IS NULL') // -1) == $made }, 300);
	$self->hold_all;
	$self->wait_all_read;
	$self->all_systems('pause');
	$self->try("SET lock_timeout = '300 ms'; SELECT app.put_customer(s, NULL), app.put_price(s, NULL) FROM generate_series(1, 40) s");
	$self->try("SET lock_timeout = '300 ms'; SELECT app.put_subscription(s, 'line', s, NULL) FROM generate_series(1, 40) s");
	# Some of them, and some that were made just now, are gone there before it takes over.
	$self->try("SET lock_timeout = '300 ms'; DELETE FROM app.$_ WHERE slot <= 40 AND slot % 6 = 0") foreach qw(subscription customer price);
	$node->wait_for_catchup($standby, 'replay');
	$standby->safe_psql('hub', 'SELECT pg_wal_replay_pause()');
	# Nor does it pull any more, which the standby does not hear of.
	$self->hub->sql('UPDATE sync.stream SET every = NULL; SELECT sync._change()');
	$self->all_systems('resume');
	sleep 0.2 + rand 4;
	$self->hub->power_off;
	$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
	$standby->reload;
	$standby->poll_query_until('hub', q(SELECT count(*) = 0 FROM pg_stat_wal_receiver));
	my $replayed = $standby->safe_psql('hub', 'SELECT pg_last_wal_replay_lsn()');
	$standby->stop('immediate');
	$standby->cut_wal($replayed);
	$standby->start;
	push @{ $self->{took_over} }, int(time * 1000);
	$standby->promote;
	$self->{hub}{node} = $standby;
	$self->hub->wait_up;
	$self->all_systems('resume');
	$self->go_on;
	$self->{promoted}++;
	$self->make_standby if $self->{promoted} < $self->{promotions};
	return;
}

# A person who looks at what is held and leaves the transaction open.
sub person
{
	my ($self) = @_;
	my $seconds = 1 + int rand 6;

	$self->start_person("BEGIN; SELECT sync.retry(id) FROM (SELECT id FROM sync.pending WHERE state IN ('retry', 'ambiguous') ORDER BY seq LIMIT 3) p; "
		  . "SELECT pg_sleep($seconds); " . (rand() < 0.5 ? 'COMMIT' : 'ROLLBACK'));
	return;
}

sub start_person
{
	my ($self, $sql) = @_;
	my $connstr = $self->node->connstr('hub');
	my $pid = fork() // croak "cannot fork: $!";

	if (!$pid)
	{
		open STDOUT, '>>', "$self->{dir}/person.log";
		open STDERR, '>&', \*STDOUT;
		exec('timeout', '60', 'psql', '-XqAt', '-d', $connstr, '-c', $sql) or POSIX::_exit(1);
	}
	push @{ $self->{people} }, $pid;
	return;
}

sub pause
{
	my ($self) = @_;
	my $system = SyncExt::Torture::App::one_of(@SYSTEMS);

	$self->try("SELECT sync.pause('$system', 'torture')");
	# Longer than a key lives, now and then.
	$self->later((rand() < 0.3 ? $KEY_TTL : 0) + rand 5, sub { $self->try("SELECT sync.resume('$system')") });
	return;
}

sub later
{
	my ($self, $seconds, $what) = @_;
	push @{ $self->{later} }, [ time + $seconds, $what ];
	return;
}

sub reload
{
	my ($self) = @_;
	my %setting = (
		'sync_ext.poll_interval' => [ 200, 500, 2000 ], 'sync_ext.checkpoint_interval' => [ 50, 200, 2000 ],
		'sync_ext.max_in_flight' => [ 2, 8, 256 ], 'sync_ext.max_queue' => [ 10, 100, 5000 ],
		'sync_ext.history_body_limit' => [ 100, 2048 ], 'sync_ext.notify_outcomes' => [qw(on off)]);
	my $name = SyncExt::Torture::App::one_of(sort keys %setting);
	my $value = SyncExt::Torture::App::one_of(@{ $setting{$name} });

	$self->try("ALTER SYSTEM SET $name = '$value'");
	$self->try('SELECT pg_reload_conf()');
	return;
}

sub alter_server
{
	my ($self) = @_;
	my $system = SyncExt::Torture::App::one_of(@SYSTEMS);
	my $option = SyncExt::Torture::App::one_of("max_in_flight '1'", "max_in_flight '8'", "max_in_flight '20'", "rate_limit '20/s'",
		"rate_limit '400/s'", "settle_time '2500 ms'", "settle_time '4 s'");

	$self->try("ALTER SERVER $system OPTIONS (SET $option)");
	return;
}

sub weather
{
	my ($self) = @_;
	my $dice = rand();

	if ($dice < 0.25)
	{
		SyncExt::Torture::Vendor::misbehave($self->{sandbox}, 1, SyncExt::Torture::App::one_of(qw(v1 rest)));
		$self->later(2 + rand 4, sub { SyncExt::Torture::Vendor::misbehave($self->{sandbox}, 1) });
	}
	else
	{
		SyncExt::Torture::Vendor::misbehave($self->{sandbox}, SyncExt::Torture::App::one_of(0, 1, 1, 3, 8));
	}
	return;
}

my @act = (
	[ 3, 'kill -9 of the hub', \&kill_hub ],
	[ 1, 'kill -9 of the postmaster', \&kill_postmaster ],
	[ 2, 'power failure', sub { $_[0]->leave_prepared; $_[0]->hub->power_off; $_[0]->node->start } ],
	[ 1, 'immediate restart', sub { $_[0]->node->stop('immediate'); $_[0]->node->start } ],
	[ 1, 'fast restart', sub { $_[0]->node->restart } ],
	[ 1, 'the hub terminated', sub { $_[0]->try("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'sync_ext hub'") } ],
	[ 3, 'a pause', \&pause ],
	[ 2, 'settings', \&reload ],
	[ 2, 'options of a server', \&alter_server ],
	[ 2, 'manifests', \&register ],
	[ 2, 'a person', \&person ],
	[ 5, 'other weather', \&weather ],
);

sub choose
{
	my $sum = 0;

	$sum += $_->[0] foreach @act;
	my $dice = rand $sum;
	foreach my $act (@act)
	{
		return @$act[ 1, 2 ] if ($dice -= $act->[0]) < 0;
	}
	return @{ $act[-1] }[ 1, 2 ];
}

sub run_later
{
	my ($self, $all) = @_;
	my @due = grep { $all || $_->[0] <= time } @{ $self->{later} };

	$self->{later} = [ grep { !$all && $_->[0] > time } @{ $self->{later} } ];
	$_->[1]->() foreach @due;
	return;
}

# What a transaction manager does: it ends prepared transactions whose session never came back.
sub end_prepared
{
	my ($self) = @_;

	return if time < ($self->{janitor_at} // 0);
	$self->{janitor_at} = time + 2;
	my $old = $self->try("SELECT gid FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - interval '6 s' ORDER BY gid") // return;
	$self->try(($_ =~ /[02468]$/ ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_'") foreach split /\n/, $old;
	return;
}

sub note
{
	my ($self, $text) = @_;
	$self->{say}->(sprintf '%6.1f s  %s', time - $self->{began}, $text);
	return;
}

sub run
{
	my ($self) = @_;
	my $end = ($self->{began} = time) + $self->{seconds};
	my @promote = map { $self->{began} + $self->{seconds} * ($_ - 0.4) / $self->{promotions} } 1 .. $self->{promotions};

	$self->tell('go');
	$self->start_writer($_) foreach 1 .. $self->{writers};
	$self->start_vendor;
	srand($self->{seed});
	SyncExt::Torture::Vendor::misbehave($self->{sandbox}, 1);
	while (time < $end)
	{
		my $until = time + 0.5 + rand 3;
		my ($name, $act) = choose();

		# The first moments are for making records.
		$until += 3 if time - $self->{began} < 3;
		while (time < $until)
		{
			$self->run_later;
			$self->end_prepared;
			sleep 0.05;
		}
		if (@promote && time > $promote[0])
		{
			shift @promote;
			($name, $act) = ('promotion of a standby that lags', \&promote);
		}
		$self->note($name);
		$self->{acts}{$name}++;
		$act->($self);
	}
	$self->quiet;
	return SyncExt::Torture::Judge::wrong($self);
}

# ---- the end ----

sub quiet
{
	my ($self) = @_;
	my $hub = $self->{hub};

	$self->note('quiet');
	$self->tell('stop');
	waitpid $_, 0 foreach values %{ $self->{processes} }, @{ $self->{people} // [] };
	$self->{processes} = {};
	$self->run_later(1);
	$self->{sandbox}->clear_faults;
	$hub->wait_up;
	foreach my $gid (split /\n/, $hub->sql('SELECT gid FROM pg_prepared_xacts ORDER BY gid'))
	{
		$hub->sql((rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
	$hub->sql('ALTER SYSTEM RESET ALL');
	$hub->sql('SELECT pg_reload_conf()');
	$hub->sql("SELECT sync.resume('$_'); ALTER SERVER $_ OPTIONS (SET rate_limit '400/s', SET max_in_flight '8')") foreach @SYSTEMS;
	$hub->wait_until('late effects', sub { $self->{sandbox}->stats->{late_effects_pending} == 0 });
	# A journal is read back a little at each poll, and what is near a push is read by id then: with
	# polls each second there would be no end of it.
	$hub->sql('UPDATE sync.stream SET every = NULL; SELECT sync._change()');
	$hub->wait_running;
	$self->note('waiting until all is delivered and pulled');
	# What was pulled may have to be sent on, and what was sent is listed once more.
	foreach (1 .. 3)
	{
		$hub->wait_idle(300);
		$hub->sql('SELECT sync.request_pull(y.name, o.name) FROM sync.stream s JOIN sync.system y ON y.id = s.system_id JOIN sync.object o ON o.id = s.object_id');
	}
	# What could not be read while the vendors were bad is tried again after a while only.
	$hub->wait_until('an empty inbox', sub {
		$hub->sql('SELECT sync.retry_inbox()');
		return $hub->wait_idle(300) && $hub->value('SELECT count(*) FROM sync.inbox') == 0 }, 120);
	$self->note('judgement');
	return;
}

1;

# What is wrong at the end of a torture: compares the tables, their history and what the sandbox
# did. See test/README.md for what is asked.
package SyncExt::Torture::Judge;

use strict;
use warnings;

use JSON::PP;
use SyncExt::Torture::Vendor;

my $json = JSON::PP->new->utf8->canonical;
my %object_of = (customers => 'customer', prices => 'price', subscriptions => 'subscription');

# Rows as hashes.
sub rows
{
	my ($hub, $query) = @_;
	my $text = $hub->sql("SELECT coalesce(json_agg(t), '[]') FROM ($query) t");

	utf8::encode($text) if utf8::is_utf8($text);
	return @{ $json->decode($text) };
}

# Committed changes by record: object, the numbers of its changes, and whether it is gone.
sub history
{
	my ($hub, $wrong) = @_;
	my %record;

	foreach my $row (rows($hub, 'SELECT * FROM app.history ORDER BY id'))
	{
		my $r = $record{ $row->{record_id} } //= { object => $row->{object}, versions => [], xid => '' };

		$r->{gone} = $row->{op} eq 'D';
		$r->{number} = $row->{number};
		push @$wrong, "$row->{object} $row->{record_id}: a pull took it back to $row->{number} at change $row->{n}"
		  if defined $row->{number} && $row->{number} !~ /\.$row->{n}$/;
		$r->{pulled} = 1 if $row->{op} eq 'I' && $row->{applied};
		push @$wrong, "$row->{object} $row->{record_id}: a pull made $row->{number} anew" if $r->{pulled} && defined $row->{number};
		next if $row->{applied};
		# A document is one event of a transaction, whatever happened in it.
		pop @{ $r->{versions} } if $r->{xid} eq $row->{xid} && $row->{object} eq 'subscription';
		next if $row->{op} eq 'D';
		push @{ $r->{versions} }, $row->{n};
		$r->{xid} = $row->{xid};
	}
	return \%record;
}

sub system_of { my ($vendor, $collection) = @_; return $vendor ne 'rest' ? 'billing' : $collection =~ /^bulk_/ ? 'bulk' : 'crm' }

# Effects of our requests: system → record → in order.
sub effects
{
	my ($hub, $sandbox) = @_;
	my %id_of = map { ("$_->{remote_id}" => $_->{record_id}) } rows($hub, 'SELECT remote_id, record_id FROM sync.external_id');
	my %effect;

	foreach my $e (@{ $sandbox->effects })
	{
		next if defined $e->{actor};
		my ($vendor, $collection, $below) = $e->{path} =~ m{^/(rest|v1)/(\w+)(/.*)?$} or next;
		# What was deleted says no more whose it was.
		my $id = ($vendor eq 'rest' ? $e->{external_id} : $e->{metadata}{sync_id} // $id_of{ $e->{id} });
		my $number = $e->{metadata}{number} // $e->{metadata}{code};
		my $system = system_of($vendor, $collection);
		my $kind = $e->{method} eq 'DELETE' ? 'delete' : $system eq 'bulk' ? 'upsert' : defined $below ? 'update' : 'create';

		push @{ $effect{$system}{ $id // "without id: $e->{path}" } },
		  { kind => $kind, n => defined $number && $number =~ /\.(\d+)$/ ? $1 : undef, remote => $e->{id}, key => $e->{idempotency_key}, at => $e->{time_ms} };
	}
	return \%effect;
}

sub telling { return join ' ', map { "$_->{kind}" . (defined $_->{n} ? " $_->{n}" : '') } @_ }

# One record at one system. took_over: when a standby did that lags.
sub wrong_record
{
	my ($system, $id, $r, $took_over, @effects) = @_;
	my $name = "$system: $r->{object} $id";
	my %committed = map { $_ => 1 } @{ $r->{versions} };
	my ($last, $made, $deleted, $before) = (0, 0, 0, 0);
	my @takeovers = @$took_over;
	my (%seen, @wrong);

	foreach my $e (@effects)
	{
		my $n = $e->{n};

		# Nobody there knows what the lost server has sent: what sets a state is sent again, in order, where no key
		# prevents it, until the newest state stands there once more. It may even be one that the lost server had merged.
		while (@takeovers && $e->{at} >= $takeovers[0])
		{
			shift @takeovers;
			$before = $last if $last > $before;
			$last = 0;
			# What is told again makes anew what was deleted there, and its delete is told again, too.
			$made = $deleted = 0 if $deleted && $e->{kind} =~ /^(?:create|upsert)$/;
		}
		push @wrong, 'was made twice' if $e->{kind} eq 'create' && $made++;
		push @wrong, "$e->{kind} after its delete" if $deleted;
		$deleted = 1 if $e->{kind} eq 'delete';
		next if !defined $n;
		push @wrong, "change $n was never committed" if !$committed{$n};
		push @wrong, "change $n after change $last" if $n < $last;
		push @wrong, "change $n, which is no repetition, after change $before"
		  if $n < $before && !$seen{$n} && $r->{object} eq 'subscription';
		$seen{$n} = 1 if !$deleted;
		$last = $n;
	}
	if (!$r->{gone} && @{ $r->{versions} })
	{
		push @wrong, "ends with change $last of $r->{versions}[-1]" if $last != $r->{versions}[-1];
	}
	elsif ($r->{gone} && @effects && !$deleted && $r->{object} ne 'price')
	{
		push @wrong, 'is still there';
	}
	# Documents are financial: nothing of theirs is ever left out.
	if ($r->{object} eq 'subscription')
	{
		push @wrong, "change $_ was never sent" foreach grep { !$seen{$_} } @{ $r->{versions} };
	}
	return map { "$name: $_ (wrote @{ $r->{versions} }" . ($r->{gone} ? ' delete' : '') . '; effects ' . telling(@effects) . ')' } @wrong;
}

# Whether a refusal is one that the hub cannot help. The server that was lost may have made an update of more, or of less,
# than the one that took over knows, and nobody there knows of its attempt: it is refused, and sent under another key.
# What makes a record is looked up first, and what was claimed before the standby took over is repeated as it was.
sub spent_by_another
{
	my ($refused, $key, $took_over, @attempts) = @_;
	my ($since, $at, $endpoint) = @$refused;

	return 0 if $endpoint ne $key->{endpoint} || $endpoint !~ m{^POST /v1/\w+/[^/]+$};
	foreach my $takeover (grep { $since < $_ && $_ <= $at } @$took_over)
	{
		return 1 if !grep { $_->{at} < $takeover } @attempts;
	}
	return 0;
}

# attempts: those that the hub has on record.
sub wrong_keys
{
	my ($keys, $effects, $took_over, @attempts) = @_;
	my %attempts;
	my (%used, @wrong);

	foreach my $e (grep { defined $_->{idempotency_key} } @$effects)
	{
		push @{ $used{ $e->{idempotency_key} } }, $e;
	}
	push @{ $attempts{ $_->{key} } }, $_ foreach @attempts;
	foreach my $key (@$keys)
	{
		my @effects = @{ $used{ $key->{key} } // [] };

		my @claimed = @{ $attempts{ $key->{key} } // [] };

		push @wrong, map { "key $key->{key} stood for two requests ($_->[2])" }
		  grep { !spent_by_another($_, $key, $took_over, @claimed) } @{ $key->{refused} };
		# An answer that was lost is asked for again, one that was heard is not.
		push @wrong, "key $key->{key} was used again after it had been refused"
		  if @{ $key->{refused} } && grep { ($_->{outcome} // '') eq 'rejected' } @claimed[ 0 .. $#claimed - 1 ];
		foreach my $i (1 .. $#effects)
		{
			# What sets a state is sent again when its key is over. Its life began when the vendor took it, and the
			# effect may have come later: the time between effects tells nothing.
			push @wrong, "key $key->{key} was executed twice in one life, within "
			  . ($effects[$i]{time_ms} - $effects[$i - 1]{time_ms}) . " ms ($effects[$i]{path})"
			  if $effects[$i]{key_since_ms} == $effects[$i - 1]{key_since_ms};
		}
	}
	return @wrong;
}

my $attempts = <<'EOF';
SELECT c.idempotency_key AS key, extract(epoch FROM c.at) * 1000 AS at, o.outcome
  FROM sync.claim c LEFT JOIN sync.outcome o ON o.route_id = c.route_id AND o.seq = c.seq AND o.attempt_id = c.attempt_id
 WHERE c.idempotency_key IS NOT NULL ORDER BY c.attempt_id
EOF

# ---- the states ----

sub remote_states
{
	my ($sandbox) = @_;
	my @states;

	foreach my $collection (sort keys %object_of)
	{
		foreach my $at ([ crm => $collection ], [ bulk => "bulk_$collection" ])
		{
			foreach my $x (SyncExt::Torture::Vendor::live_rest($sandbox, $at->[1]))
			{
				my @lines = map { "$_->{line}:$_->{price}x$_->{quantity}" } @{ $x->{lines} // [] };
				push @states, { system => $at->[0], object => $object_of{$collection}, id => $x->{external_id}, remote => $x->{id},
					state => join('|', map { $_ // '' } $x->{number} // $x->{code}, $x->{name}, $x->{note}, $x->{state}, $x->{customer}, sort @lines) };
			}
		}
		foreach my $x (SyncExt::Torture::Vendor::live_stripe($sandbox, $collection))
		{
			next if $collection eq 'prices' && !$x->{active} || ($x->{status} // '') eq 'canceled';
			my $meta = $x->{metadata};
			my @lines = map { "$_->{metadata}{sync_id}:$_->{price}{id}x$_->{quantity}" } @{ ($x->{items} // {})->{data} // [] };
			push @states, { system => 'billing', object => $object_of{$collection}, id => $meta->{sync_id}, remote => $x->{id},
				state => join('|', map { $_ // '' } $meta->{number} // $meta->{code}, $x->{name}, $x->{description} // $meta->{note}, '', $x->{customer}, sort @lines) };
		}
	}
	return @states;
}

# What each system should say, put together from the tables and the cross-reference.
my $wanted = <<'EOF';
SELECT y.name AS system, t.object, t.id, concat_ws('|', coalesce(t.number, ''), t.name, t.note,
       CASE WHEN t.object = 'subscription' AND y.name = 'crm' THEN 'posted' ELSE '' END,
       coalesce(sync.remote_id('customer', t.customer_id::text, y.name), ''),
       (SELECT string_agg(l.line, '|' ORDER BY l.line COLLATE "C")
          FROM (SELECT format('%s:%sx%s', CASE y.name WHEN 'billing' THEN i.id::text ELSE i.line_no::text END,
                              sync.remote_id('price', i.price_id::text, y.name), i.quantity) AS line
                  FROM app.subscription_item i WHERE i.subscription_id = t.id) l)) AS state
  FROM (SELECT 'customer' AS object, id, number, name, note, NULL::uuid AS customer_id FROM app.customer
        UNION ALL SELECT 'price', id, code, '', note, NULL FROM app.price
        UNION ALL SELECT 'subscription', id, number, '', note, customer_id FROM app.subscription) t
 CROSS JOIN sync.system y
EOF

sub wrong_states
{
	my ($hub, $sandbox) = @_;
	# A vendor's own record that was never changed here does not know our id.
	my %bound = map { ("$_->{system}: $_->{object} $_->{remote}" => $_->{record_id}) }
	  rows($hub, 'SELECT y.name AS system, o.name AS object, x.remote_id AS remote, x.record_id FROM sync.external_id x '
		  . 'JOIN sync.system y ON y.id = x.system_id JOIN sync.object o ON o.id = x.object_id');
	my (%there, @wrong);

	foreach my $state (remote_states($sandbox))
	{
		my $id = $state->{id} // $bound{"$state->{system}: $state->{object} $state->{remote}"} // 'without id';
		push @{ $there{"$state->{system}: $state->{object} $id"} }, $state;
	}
	foreach my $row (rows($hub, $wanted))
	{
		my $name = "$row->{system}: $row->{object} $row->{id}";
		my @is = @{ delete $there{$name} // [] };

		push @wrong, "$name: stands there " . @is . ' times' if @is != 1;
		push @wrong, map { "$name: is '$_->{state}' there and '$row->{state}' here" } grep { $_->{state} ne $row->{state} } @is;
	}
	foreach my $name (sort keys %there)
	{
		push @wrong, map { "$name: $_->{remote} '$_->{state}' is there and not here" } @{ $there{$name} };
	}
	return @wrong;
}

sub wrong
{
	my ($self) = @_;
	my ($hub, $sandbox) = ($self->{hub}, $self->{sandbox});
	my @wrong;
	my $history = history($hub, \@wrong);
	my $effects = effects($hub, $sandbox);

	foreach my $system (qw(billing bulk crm))
	{
		foreach my $id (sort keys %$history)
		{
			push @wrong, wrong_record($system, $id, $history->{$id}, $self->{took_over}, @{ delete $effects->{$system}{$id} // [] });
		}
		push @wrong, map { "$system: $_ was never committed (" . telling(@{ $effects->{$system}{$_} }) . ')' } sort keys %{ $effects->{$system} };
	}
	push @wrong, wrong_keys($sandbox->keys, $sandbox->effects, $self->{took_over}, rows($hub, $attempts));
	push @wrong, wrong_states($hub, $sandbox);
	push @wrong, map { "held: $_" } split /\n/, $hub->sql('SELECT delivery, object, record_id, state, code, message FROM sync.delivery d WHERE EXISTS (SELECT FROM sync._unfinished u WHERE u.seq = d.seq)');
	push @wrong, map { "inbox: $_" } split /\n/, $hub->sql('SELECT system, object, remote_id, state, reason FROM sync.inbox_status');
	push @wrong, map { "invariant: $_" } split /\n/, $hub->sql('SELECT * FROM sync.check_invariants()');
	push @wrong, map { "log: $_" } grep { /PANIC|TRAP|by signal (?!9\b|6\b)\d+/ } split /\n/, PostgreSQL::Test::Utils::slurp_file($self->node->logfile);
	$self->{changes} = @{ [ map { @{ $_->{versions} } } values %$history ] };
	$self->{effects} = $sandbox->stats->{effects};
	$self->{refused} = grep { @{ $_->{refused} } } @{ $sandbox->keys };
	return @wrong;
}

# All that is known of one record, for whoever looks for the cause.
sub dossier
{
	my ($self, $id) = @_;
	my $hub = $self->{hub};
	my @lines = ("---- $id");

	push @lines, split /\n/, $hub->sql("SELECT at, op, n, number, applied, xid FROM app.history WHERE record_id = '$id' ORDER BY id");
	push @lines, split /\n/, $hub->sql("SELECT seq, at, op, origin, xid, body ->> 'n', body ->> 'note' FROM sync.outbox WHERE record_id = '$id' ORDER BY seq");
	push @lines, split /\n/, $hub->sql("SELECT c.route_id, c.seq, c.attempt_id, c.at, c.step, c.attempt, c.idempotency_key, left(c.request, 300), o.at, o.outcome, o.state, o.status, o.code, left(o.message, 100)
		FROM sync.claim c LEFT JOIN sync.outcome o ON o.route_id = c.route_id AND o.seq = c.seq AND o.attempt_id = c.attempt_id WHERE c.record_id = '$id' ORDER BY c.attempt_id");
	push @lines, split /\n/, $hub->sql("SELECT 'mirror', * FROM sync.mirror WHERE record_id = '$id'");
	foreach my $e (@{ $self->{sandbox}->effects })
	{
		push @lines, $json->encode($e) if ($e->{external_id} // $e->{metadata}{sync_id} // '') eq $id;
	}
	return @lines;
}

1;
